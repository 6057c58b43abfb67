-- The last write of an entity's data: an earlier one that arrives late changes nothing. It stays when the data
-- is deleted. Older programs neither read nor write it, so the format stays 1.
CREATE TABLE entity_order (
    entity  TEXT COLLATE "C" PRIMARY KEY,
    epoch   BIGINT NOT NULL,
    counter BIGINT NOT NULL
);

-- It goes with the account, as the data does. The order of the locks is that of a write.
CREATE OR REPLACE FUNCTION entity_data_forget() RETURNS TRIGGER
LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM entity_order WHERE entity = COALESCE(NEW.bare, OLD.bare);
    DELETE FROM entity_data WHERE entity = COALESCE(NEW.bare, OLD.bare);
    RETURN NULL;
END
$$;
