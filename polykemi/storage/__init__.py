"""State behind two small interfaces: runtime state (``location``) and provisioned data (``provisioned``)."""
