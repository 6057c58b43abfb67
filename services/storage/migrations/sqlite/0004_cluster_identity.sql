-- Which cluster this database belongs to: its configured name and a random id, written by the first
-- storage process.
CREATE TABLE cluster_identity (
    one  BOOLEAN NOT NULL PRIMARY KEY DEFAULT TRUE CHECK (one),
    name TEXT NOT NULL,
    id   TEXT NOT NULL
);
