-- Sessions and rooms of a process that was stopped, for its next start. They are valid only when
-- replica_complete has its row, which is written with the last of them.
CREATE TABLE replica (
    id     INTEGER PRIMARY KEY AUTOINCREMENT,
    object BLOB NOT NULL
);
CREATE TABLE replica_complete (one INTEGER PRIMARY KEY CHECK (one = 1));
