-- From when on a run may be claimed whose last attempt was lost to a failure of the site.
ALTER TABLE runs ADD COLUMN not_before INTEGER;
-- Since when the engine has not answered; no row while it answers.
CREATE TABLE outage (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    since INTEGER NOT NULL
);
