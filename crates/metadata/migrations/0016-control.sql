-- What people say about runs after the push. `cancel` (JSON, see Cancellation): who wants it to end; whatever takes care of
-- it ends it as cancelled and in no other way. `retry_of`: the run whose image this one runs again.
ALTER TABLE runs ADD COLUMN cancel TEXT;
ALTER TABLE runs ADD COLUMN retry_of INTEGER;
-- Projects of which nothing new is started; that with the empty name is the whole site.
CREATE TABLE pauses (
    project TEXT    NOT NULL PRIMARY KEY,
    pause   TEXT    NOT NULL              -- who wants it and since when, JSON (see Pause)
) STRICT, WITHOUT ROWID;
