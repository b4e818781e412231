-- What Kamailio needs beside the tables that polykemi makes: its own version row, contacts, and the passwords
-- that both servers' htable loads. The versions are those that Kamailio 5.6 asks for.
INSERT INTO version VALUES ('version', 1), ('location', 9), ('passwords', 2);

CREATE TABLE location (
    id INTEGER PRIMARY KEY NOT NULL,
    ruid VARCHAR(64) NOT NULL UNIQUE,
    username VARCHAR(64) NOT NULL,
    domain VARCHAR(64),
    contact VARCHAR(512) NOT NULL,
    received VARCHAR(128),
    path VARCHAR(512),
    expires TIMESTAMP NOT NULL,
    q REAL NOT NULL DEFAULT 1.0,
    callid VARCHAR(255) NOT NULL,
    cseq INTEGER NOT NULL,
    last_modified TIMESTAMP NOT NULL,
    flags INTEGER NOT NULL DEFAULT 0,
    cflags INTEGER NOT NULL DEFAULT 0,
    user_agent VARCHAR(255) NOT NULL DEFAULT '',
    socket VARCHAR(64),
    methods INTEGER,
    instance VARCHAR(255),
    reg_id INTEGER NOT NULL DEFAULT 0,
    server_id INTEGER NOT NULL DEFAULT 0,
    connection_id INTEGER NOT NULL DEFAULT 0,
    keepalive INTEGER NOT NULL DEFAULT 0,
    partition INTEGER NOT NULL DEFAULT 0
);

CREATE TABLE passwords (
    id INTEGER PRIMARY KEY NOT NULL,
    key_name VARCHAR(64) NOT NULL,
    key_type INTEGER NOT NULL DEFAULT 0,
    value_type INTEGER NOT NULL DEFAULT 0,
    key_value VARCHAR(128) NOT NULL DEFAULT '',
    expires INTEGER NOT NULL DEFAULT 0
);
INSERT INTO passwords (key_name, key_value) SELECT username, password FROM subscriber;
