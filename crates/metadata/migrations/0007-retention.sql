-- When somebody last pulled a manifest by this tag; none since it was first pushed, or since this was noted.
ALTER TABLE tags ADD COLUMN pulled_at INTEGER;

-- When a tag that named it was last moved elsewhere.
ALTER TABLE manifest_links ADD COLUMN untagged_at INTEGER;
