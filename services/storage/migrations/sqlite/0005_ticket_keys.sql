-- Keys of TLS tickets: the one before, the one in use, the next one.
CREATE TABLE ticket_key (
    number  BIGINT NOT NULL PRIMARY KEY,
    key     BLOB NOT NULL,
    made_ms BIGINT NOT NULL
);
