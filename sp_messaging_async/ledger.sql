-- Everything that the SQLite ledger says to its database. A statement begins with a line that
-- names it and ends at the next one. Times are seconds since 1970.


-- The schema, version by version. A migration and its record are committed together.

-- migration 1
CREATE TABLE facts (
    name TEXT PRIMARY KEY,      -- schema, endpoint, key, sequence, open
    value BLOB NOT NULL
) WITHOUT ROWID;

CREATE TABLE runs (
    id TEXT PRIMARY KEY,
    campaign TEXT NOT NULL,
    began_at REAL NOT NULL,
    ended_at REAL               -- NULL until a run has sent all that this one planned
) WITHOUT ROWID;

CREATE TABLE messages (
    id INTEGER PRIMARY KEY,
    campaign TEXT NOT NULL,
    amazon_order_id TEXT NOT NULL,
    operation TEXT NOT NULL,
    account TEXT NOT NULL,
    marketplace TEXT,
    status TEXT NOT NULL
        CHECK (status IN ('planned', 'sending', 'sent', 'skipped', 'rejected', 'unknown')),
    repeats INTEGER NOT NULL,   -- 1: sent though another campaign has messaged this pair
    content TEXT,               -- NULL once the row is final
    digest BLOB NOT NULL,       -- of all that the user wrote
    run TEXT,                   -- the last run whose list named it
    cycle TEXT,                 -- the run that planned it, or planned it again
    owner TEXT,                 -- whose intent it is, and until when it holds
    deadline REAL,
    attempts INTEGER NOT NULL DEFAULT 0,
    request_id TEXT,
    failure TEXT,
    enrolled_at REAL NOT NULL,
    changed_at REAL NOT NULL,
    sent_at REAL,
    UNIQUE (amazon_order_id, operation, campaign)
);
CREATE INDEX messages_to_send ON messages (run, account, operation, id) WHERE status = 'planned';
/* Whatever a statement overlooks, no pair has two intents at once. */
CREATE UNIQUE INDEX messages_under_way ON messages (amazon_order_id, operation)
WHERE status = 'sending';

CREATE TABLE purged (
    pair BLOB PRIMARY KEY       -- a keyed digest of an order and an operation that were messaged
) WITHOUT ROWID;


-- Opening and closing

-- fact
SELECT value FROM facts WHERE name = :name;

-- set fact
INSERT INTO facts (name, value) VALUES (:name, :value)
ON CONFLICT (name) DO UPDATE SET value = excluded.value;

-- next sequence
UPDATE facts SET value = value + 1 WHERE name = 'sequence' RETURNING value;

-- raise sequence
UPDATE facts SET value = max(value, :least) WHERE name = 'sequence';

-- interrupt all
UPDATE messages SET status = 'unknown', failure = :failure, changed_at = :now
WHERE status = 'sending';

-- interrupt campaign
UPDATE messages SET status = 'unknown', failure = :failure, changed_at = :now
WHERE status = 'sending' AND campaign = :campaign AND (owner LIKE 'run:%' OR deadline < :now);

-- doubt planned
UPDATE messages SET status = 'unknown', failure = :failure, changed_at = :now
WHERE status = 'planned';


-- One message

-- row
SELECT * FROM messages WHERE id = :id;

-- lapse all
UPDATE messages SET status = 'unknown', failure = :failure, changed_at = :now
WHERE status = 'sending' AND deadline < :now;

-- deciding row
SELECT * FROM messages
WHERE amazon_order_id = :amazon_order_id AND operation = :operation
    AND (campaign = :campaign OR (NOT :again AND status IN ('sending', 'sent', 'unknown')))
ORDER BY status IN ('sending', 'sent', 'unknown') DESC, campaign = :campaign DESC
LIMIT 1;

-- is purged
SELECT 1 FROM purged WHERE pair = :pair;

-- plan
INSERT INTO messages (campaign, amazon_order_id, operation, account, marketplace, status, repeats,
    content, digest, enrolled_at, changed_at)
VALUES (:campaign, :amazon_order_id, :operation, :account, :marketplace, 'planned', :again,
    :content, :digest, :now, :now)
RETURNING *;

-- change plan
UPDATE messages SET account = :account, marketplace = :marketplace, content = :content,
    digest = :digest, repeats = max(repeats, :again), changed_at = :now
WHERE id = :id AND status = 'planned'
RETURNING *;

-- intend
UPDATE OR IGNORE messages SET status = 'sending', owner = intent.owner,
    deadline = intent.deadline, attempts = attempts + 1, changed_at = :now
FROM (SELECT json_extract(value, '$[0]') AS id, json_extract(value, '$[1]') AS owner,
    json_extract(value, '$[2]') AS deadline FROM json_each(:intents)) AS intent
WHERE messages.id = intent.id AND status = 'planned' AND (repeats OR NOT EXISTS (
    SELECT 1 FROM messages AS other
    WHERE other.amazon_order_id = messages.amazon_order_id
        AND other.operation = messages.operation AND other.id != messages.id
        AND other.status IN ('sending', 'sent', 'unknown')))
    AND (repeats OR NOT EXISTS (SELECT 1 FROM purged)
        OR NOT EXISTS (SELECT 1 FROM purged
            WHERE pair = keyed_digest(messages.amazon_order_id, messages.operation)));

-- is intended
SELECT 1 FROM messages
WHERE id = :id AND status = 'sending' AND owner = :owner AND deadline = :deadline;

-- settle
UPDATE messages SET status = settled.status, owner = NULL, deadline = NULL,
    request_id = settled.request_id, failure = settled.failure, changed_at = :now,
    sent_at = iif(settled.status = 'sent', :now, sent_at),
    content = iif(settled.status IN ('sent', 'skipped', 'rejected'), NULL, content)
FROM (SELECT json_extract(value, '$[0]') AS id, json_extract(value, '$[1]') AS owner,
    json_extract(value, '$[2]') AS status, json_extract(value, '$[3]') AS request_id,
    json_extract(value, '$[4]') AS failure FROM json_each(:settlements)) AS settled
WHERE messages.id = settled.id AND (messages.status = 'planned'
    OR (messages.owner = settled.owner AND messages.status IN ('sending', 'unknown')));


-- A list: staged in a table of this connection's, then merged in one transaction

-- begin staging
CREATE TEMP TABLE staged (
    line INTEGER PRIMARY KEY,
    amazon_order_id TEXT NOT NULL,
    operation TEXT NOT NULL,
    account TEXT NOT NULL,
    marketplace TEXT,
    content TEXT NOT NULL,
    digest BLOB NOT NULL
);

-- begin merging
CREATE TEMP TABLE left_alone (
    line INTEGER PRIMARY KEY,
    amazon_order_id TEXT NOT NULL,
    operation TEXT NOT NULL,
    status TEXT NOT NULL,
    campaign TEXT,
    is_changed INTEGER NOT NULL -- 1: the list says something else than what decided it
);

-- stage
INSERT INTO temp.staged VALUES (?, ?, ?, ?, ?, ?, ?);

-- end staging
DROP TABLE IF EXISTS temp.staged;

-- end merging
DROP TABLE IF EXISTS temp.left_alone;

-- index staged
CREATE INDEX temp.staged_pairs ON staged (amazon_order_id, operation, line);

-- staged conflicts
SELECT later.line AS line, first.line AS first_line, later.amazon_order_id, later.operation,
    count(*) OVER () AS total
FROM (SELECT amazon_order_id, operation, digest, content, min(line) AS line FROM temp.staged
    GROUP BY amazon_order_id, operation HAVING count(*) > 1) AS first
JOIN temp.staged AS later USING (amazon_order_id, operation)
WHERE later.digest != first.digest OR later.content != first.content
ORDER BY later.line LIMIT :limit;

-- drop conflicts
DELETE FROM temp.staged WHERE (amazon_order_id, operation) IN (
    SELECT amazon_order_id, operation FROM temp.staged
    GROUP BY amazon_order_id, operation
    HAVING min(digest) != max(digest) OR min(content) != max(content));

-- merge identical
DELETE FROM temp.staged WHERE line NOT IN (
    SELECT min(line) FROM temp.staged GROUP BY amazon_order_id, operation);

-- begin run
INSERT INTO runs (id, campaign, began_at) VALUES (:run, :campaign, :now);

-- end run
UPDATE runs SET ended_at = :now
WHERE ended_at IS NULL AND id IN (
    SELECT cycle FROM messages WHERE cycle IS NOT NULL GROUP BY cycle
    HAVING min(run IS :run) AND NOT max(status IN ('planned', 'sending')));

-- reopen
UPDATE messages SET status = 'planned', repeats = 1, content = staged.content,
    digest = staged.digest, account = staged.account, marketplace = staged.marketplace,
    attempts = 0, request_id = NULL, failure = NULL, sent_at = NULL, changed_at = :now,
    cycle = :run
FROM temp.staged AS staged
WHERE messages.amazon_order_id = staged.amazon_order_id
    AND messages.operation = staged.operation AND messages.campaign = :campaign
    AND messages.status IN ('sent', 'skipped', 'rejected', 'unknown')
    AND NOT EXISTS (SELECT 1 FROM runs WHERE id = messages.cycle AND ended_at IS NULL);

-- change planned rows
UPDATE messages SET content = staged.content, digest = staged.digest, account = staged.account,
    marketplace = staged.marketplace, changed_at = :now
FROM temp.staged AS staged
WHERE messages.amazon_order_id = staged.amazon_order_id
    AND messages.operation = staged.operation AND messages.campaign = :campaign
    AND messages.status = 'planned'
    AND (messages.digest != staged.digest OR messages.content != staged.content);

-- permit repeats
UPDATE messages SET repeats = 1
FROM temp.staged AS staged
WHERE messages.amazon_order_id = staged.amazon_order_id
    AND messages.operation = staged.operation AND messages.campaign = :campaign
    AND messages.status = 'planned' AND NOT messages.repeats;

-- plan new rows
INSERT INTO messages (campaign, amazon_order_id, operation, account, marketplace, status, repeats,
    content, digest, run, cycle, enrolled_at, changed_at)
SELECT :campaign, amazon_order_id, operation, account, marketplace, 'planned', :again,
    content, digest, :run, :run, :now, :now
FROM temp.staged AS staged
WHERE NOT EXISTS (
        SELECT 1 FROM messages AS own WHERE own.amazon_order_id = staged.amazon_order_id
            AND own.operation = staged.operation AND own.campaign = :campaign)
    AND (:again OR NOT EXISTS (
        SELECT 1 FROM messages AS other WHERE other.amazon_order_id = staged.amazon_order_id
            AND other.operation = staged.operation
            AND other.status IN ('sending', 'sent', 'unknown')))
    AND (:again OR NOT EXISTS (SELECT 1 FROM purged)
        OR NOT EXISTS (SELECT 1 FROM purged
            WHERE pair = keyed_digest(staged.amazon_order_id, staged.operation)))
ORDER BY staged.line;

-- claim for run
UPDATE messages SET run = :run
FROM temp.staged AS staged
WHERE messages.amazon_order_id = staged.amazon_order_id
    AND messages.operation = staged.operation AND messages.campaign = :campaign
    AND messages.run IS NOT :run;

-- find left alone
INSERT INTO temp.left_alone
SELECT staged.line, staged.amazon_order_id, staged.operation,
    coalesce(decided.status, 'sent') AS status, decided.campaign,
    decided.digest IS NOT NULL AND decided.digest != staged.digest AS is_changed
FROM temp.staged AS staged
LEFT JOIN messages AS own ON own.amazon_order_id = staged.amazon_order_id
    AND own.operation = staged.operation AND own.campaign = :campaign
LEFT JOIN messages AS decided ON decided.id = coalesce(
    iif(own.status != 'planned', own.id, NULL),
    (SELECT other.id FROM messages AS other
     WHERE other.amazon_order_id = staged.amazon_order_id
        AND other.operation = staged.operation
        AND other.status IN ('sending', 'sent', 'unknown') LIMIT 1))
WHERE own.id IS NULL OR own.status != 'planned'
    OR (decided.id IS NOT NULL AND NOT own.repeats);

-- left alone
SELECT line, amazon_order_id, operation, status, campaign FROM temp.left_alone
ORDER BY status = 'sent' AND coalesce(campaign, :campaign) = :campaign, line LIMIT :limit;

-- changed left alone
SELECT line, amazon_order_id, operation, status, campaign, count(*) OVER () AS total
FROM temp.left_alone WHERE is_changed ORDER BY line LIMIT :limit;

-- count left alone
SELECT status, count(*) AS number FROM temp.left_alone GROUP BY status;

-- left of an earlier list
SELECT amazon_order_id, operation, count(*) OVER () AS total FROM messages
WHERE status = 'planned' AND campaign = :campaign AND run IS NOT :run AND cycle IN (
    SELECT own.cycle FROM messages AS own JOIN runs ON runs.id = own.cycle
    WHERE own.run = :run AND own.status != 'planned' AND runs.ended_at IS NULL)
ORDER BY id LIMIT 1;

-- staged number
SELECT count(*) FROM temp.staged;


-- A run

-- lanes
SELECT account, operation, count(*) AS number,
    coalesce(sum(json_array_length(content, '$.attachments')), 0) AS files
FROM messages WHERE run = :run AND status = 'planned'
GROUP BY account, operation ORDER BY account, operation;

-- marketplaces
SELECT DISTINCT marketplace FROM messages WHERE run = :run AND status = 'planned';

-- to send
SELECT * FROM messages
WHERE run = :run AND account = :account AND operation = :operation AND status = 'planned'
    AND id > :after
ORDER BY id LIMIT :limit;


-- What a person asks

-- counts
SELECT iif(status = 'sending' AND deadline < :now, 'unknown', status) AS status, count(*) AS number
FROM messages
WHERE (:campaign IS NULL OR campaign = :campaign) AND (:run IS NULL OR run = :run)
GROUP BY 1;

-- rows
SELECT * FROM messages
WHERE id > :after AND (:campaign IS NULL OR campaign = :campaign)
    AND (:status IS NULL
        OR iif(status = 'sending' AND deadline < :now, 'unknown', status) = :status)
ORDER BY id LIMIT :limit;

-- resolve
UPDATE messages SET status = :status, owner = NULL, deadline = NULL, changed_at = :now,
    failure = iif(:status = 'sent', NULL, failure),
    content = iif(:status = 'sent', NULL, content)
WHERE amazon_order_id = :amazon_order_id AND operation = :operation AND status = 'unknown'
    AND (:campaign IS NULL OR campaign = :campaign);

-- remember purged
INSERT OR IGNORE INTO purged
SELECT keyed_digest(amazon_order_id, operation) FROM messages
WHERE status = 'sent' AND changed_at < :before;

-- purge
DELETE FROM messages
WHERE status IN ('sent', 'skipped', 'rejected') AND changed_at < :before;
