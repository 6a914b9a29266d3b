-- What a run was given when it started (JSON, see Given), and what it was seen to use.
ALTER TABLE runs ADD COLUMN given TEXT;
ALTER TABLE runs ADD COLUMN peak_memory INTEGER;   -- bytes
ALTER TABLE runs ADD COLUMN cpu_time INTEGER;      -- milliseconds
