-- Hash of the secret that proves a process to be this incarnation; NULL until its first lease request.
ALTER TABLE lease ADD COLUMN proof BYTEA;
