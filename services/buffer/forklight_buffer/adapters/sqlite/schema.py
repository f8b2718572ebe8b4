"""Tables of ledger.sqlite. Only `samples` of a rewound line of checkpoints ever lose a row, and `rollbacks`
says so.
"""

SCHEMA = """
CREATE TABLE IF NOT EXISTS notes (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS groups (
  group_id TEXT PRIMARY KEY, purpose INTEGER NOT NULL, idx INTEGER NOT NULL, position INTEGER NOT NULL,
  prompt_id TEXT NOT NULL, kind TEXT NOT NULL, size INTEGER NOT NULL, window INTEGER NOT NULL,
  opened_version INTEGER NOT NULL, opened_at REAL NOT NULL, redrive_of TEXT UNIQUE, closed INTEGER NOT NULL
  DEFAULT 0 ) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS groups_open ON groups (group_id) WHERE closed = 0;
CREATE INDEX IF NOT EXISTS groups_index ON groups (purpose, idx);
CREATE INDEX IF NOT EXISTS groups_position ON groups (position) WHERE purpose = 1 AND redrive_of IS NULL;
CREATE TABLE IF NOT EXISTS samples (
  sample_id TEXT PRIMARY KEY, group_id TEXT NOT NULL, prompt_id TEXT NOT NULL, purpose INTEGER NOT NULL,
  state INTEGER NOT NULL CHECK (state BETWEEN 10 AND 15), reason TEXT NOT NULL, reward REAL,
  num_response_tokens INTEGER NOT NULL, finish_reason INTEGER NOT NULL,
  min_version INTEGER NOT NULL, max_version INTEGER NOT NULL, lineage TEXT NOT NULL, step INTEGER NOT NULL,
  payload_id TEXT NOT NULL, payload_bytes INTEGER NOT NULL, opened_at REAL NOT NULL, ended_at REAL NOT NULL,
  kept INTEGER NOT NULL DEFAULT 1, correct REAL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS samples_group ON samples (group_id);
CREATE INDEX IF NOT EXISTS samples_state ON samples (state, sample_id);
CREATE INDEX IF NOT EXISTS samples_step ON samples (lineage, step) WHERE state = 10;
CREATE INDEX IF NOT EXISTS samples_kept ON samples (ended_at) WHERE kept = 1 AND payload_id <> '';
CREATE TABLE IF NOT EXISTS tallies (
  state INTEGER NOT NULL, reason TEXT NOT NULL, num INTEGER NOT NULL, PRIMARY KEY (state, reason)
) WITHOUT ROWID;
CREATE TRIGGER IF NOT EXISTS samples_in AFTER INSERT ON samples BEGIN
  INSERT INTO tallies VALUES (NEW.state, substr(NEW.reason, 1, instr(NEW.reason || ':', ':') - 1), 1)
  ON CONFLICT DO UPDATE SET num = num + 1;
END;
CREATE TRIGGER IF NOT EXISTS samples_out AFTER DELETE ON samples BEGIN
  UPDATE tallies SET num = num - 1
  WHERE state = OLD.state AND reason = substr(OLD.reason, 1, instr(OLD.reason || ':', ':') - 1);
END;
CREATE TABLE IF NOT EXISTS discards (payload_id TEXT PRIMARY KEY, at REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS leased_groups (
  group_id TEXT PRIMARY KEY, step INTEGER NOT NULL, position INTEGER NOT NULL,
  policy_version INTEGER NOT NULL, body BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS leased_groups_step ON leased_groups (step, position);
CREATE TABLE IF NOT EXISTS lineages (
  lineage TEXT PRIMARY KEY, parent TEXT NOT NULL, forked_at INTEGER NOT NULL, at REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS commits (
  lineage TEXT NOT NULL, step INTEGER NOT NULL, batch_id TEXT NOT NULL, sample_ids TEXT NOT NULL, at REAL NOT
  NULL, PRIMARY KEY (lineage, step)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS rollbacks (
  id INTEGER PRIMARY KEY, at REAL NOT NULL, epoch INTEGER NOT NULL, sample_id TEXT NOT NULL,
  from_state INTEGER NOT NULL, from_lineage TEXT NOT NULL, from_step INTEGER NOT NULL, became TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS versions (
  id INTEGER PRIMARY KEY, version INTEGER NOT NULL, manifest TEXT NOT NULL, manifest_id TEXT NOT NULL,
  epoch INTEGER NOT NULL, at REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS evaluations (
  version INTEGER PRIMARY KEY, num_prompts INTEGER NOT NULL, num_scored INTEGER NOT NULL DEFAULT 0,
  num_failed INTEGER NOT NULL DEFAULT 0, mean_reward REAL NOT NULL DEFAULT 0, due_at REAL NOT NULL,
  completed_at REAL, samples_per_prompt INTEGER NOT NULL DEFAULT 1, state TEXT NOT NULL DEFAULT 'open',
  estimates TEXT NOT NULL DEFAULT '' );
CREATE TABLE IF NOT EXISTS conflicts (
  id INTEGER PRIMARY KEY, at REAL NOT NULL, sample_id TEXT NOT NULL, kept INTEGER NOT NULL, refused INTEGER
  NOT NULL, detail TEXT NOT NULL, UNIQUE (sample_id, refused, detail)
);
CREATE TABLE IF NOT EXISTS events (
  id INTEGER PRIMARY KEY, at REAL NOT NULL, kind TEXT NOT NULL, detail TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS reported_events (
  number INTEGER PRIMARY KEY, event_id TEXT NOT NULL, lineage TEXT NOT NULL, step INTEGER NOT NULL,
  body BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS reported_events_id ON reported_events (event_id);
CREATE TABLE IF NOT EXISTS evidence (
  number INTEGER PRIMARY KEY, group_id TEXT NOT NULL, prompt_id TEXT NOT NULL, num_scored INTEGER NOT NULL,
  passed REAL NOT NULL, step INTEGER NOT NULL, lineage TEXT NOT NULL, UNIQUE (group_id, lineage, step)
);
"""

FORMAT = 3

UPGRADES = {
    1: """
ALTER TABLE samples ADD COLUMN correct REAL;
ALTER TABLE evaluations ADD COLUMN samples_per_prompt INTEGER NOT NULL DEFAULT 1;
ALTER TABLE evaluations ADD COLUMN state TEXT NOT NULL DEFAULT 'open';
ALTER TABLE evaluations ADD COLUMN estimates TEXT NOT NULL DEFAULT '';
UPDATE evaluations SET state = 'complete' WHERE completed_at IS NOT NULL;
""",
    2: "",  # evidence is a new table: it begins with the groups that end from now on
}
"""By the format they start from: what brings an older ledger one format further."""
