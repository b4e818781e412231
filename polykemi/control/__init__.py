"""The control plane: what an operator asks of a running server, over JSON-RPC 2.0 on a Unix socket."""
