-- Whose turn a run has in the queue. `project`: the one it belongs to. `priority`: more is earlier, within a project.
-- `reserved`: 1 once it was next and did not fit; nothing else starts before it. `cpus` (billionths of a processor) and
-- `memory` (bytes): what it takes of the host while it is under way.
ALTER TABLE runs ADD COLUMN project TEXT NOT NULL DEFAULT '';
ALTER TABLE runs ADD COLUMN priority INTEGER NOT NULL DEFAULT 0;
ALTER TABLE runs ADD COLUMN reserved INTEGER NOT NULL DEFAULT 0;
ALTER TABLE runs ADD COLUMN cpus INTEGER;
ALTER TABLE runs ADD COLUMN memory INTEGER;
-- `run/<project>/<name>` or `try/<project>/<name>`
UPDATE runs SET project = substr(repository, 5, instr(substr(repository, 5), '/') - 1);
CREATE INDEX runs_by_owner ON runs (owner, queued_at);
CREATE INDEX runs_by_project ON runs (project, queued_at);
