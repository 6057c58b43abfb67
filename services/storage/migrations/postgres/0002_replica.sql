-- Sessions and rooms of a process that was stopped, for its next start. They are valid only when
-- replica_complete has its row, which is written with the last of them.
CREATE TABLE replica (
    id     BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    object BYTEA NOT NULL
);
CREATE TABLE replica_complete (one INTEGER PRIMARY KEY CHECK (one = 1));
