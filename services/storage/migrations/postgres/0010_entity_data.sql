-- Data of modules about an entity (a user, a room or a node), by name. Older programs neither read nor
-- write it, so the format stays 1.
CREATE TABLE entity_data (
    entity TEXT COLLATE "C" NOT NULL,
    name   TEXT COLLATE "C" NOT NULL,
    value  BYTEA NOT NULL,
    PRIMARY KEY (entity, name)
);

-- An account takes its data along, and a new one begins without any, also where a session of the former
-- account has written after its removal. Triggers, so that this holds for accounts that an older program
-- removes or creates.
CREATE FUNCTION entity_data_forget() RETURNS TRIGGER
LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM entity_data WHERE entity = COALESCE(NEW.bare, OLD.bare);
    RETURN NULL;
END
$$;
CREATE TRIGGER account_takes_its_data AFTER INSERT OR DELETE ON account
    FOR EACH ROW EXECUTE FUNCTION entity_data_forget();
