-- Everything that the PostgreSQL ledger says to its database. A statement begins with a line that
-- names it and ends at the next one. Names of tables stand behind sp_messaging, which is replaced
-- where a ledger has another schema. Times are the database's, and no machine's of a sender.


-- The schema, version by version. A migration and its record are committed together.

-- lock schema
SELECT pg_advisory_xact_lock(hashtextextended('sp-messaging-async schema ' || %(schema)s, 0));

-- make schema
CREATE SCHEMA IF NOT EXISTS sp_messaging;

-- find schema
SELECT (SELECT oid FROM pg_namespace WHERE nspname = %(schema)s) IS NOT NULL AS is_there,
    EXISTS (SELECT FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE n.nspname = %(schema)s AND c.relkind IN ('r', 'p', 'v', 'm')) AS has_tables,
    EXISTS (SELECT FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE n.nspname = %(schema)s AND c.relname = 'facts') AS has_facts;

-- migration 1
CREATE TABLE sp_messaging.facts (
    name text PRIMARY KEY,      -- schema, endpoint, key
    value text NOT NULL
);

CREATE TABLE sp_messaging.runs (
    id text PRIMARY KEY,
    campaign text NOT NULL,
    began_at timestamptz NOT NULL,
    ended_at timestamptz        -- NULL until a run has sent all that this one planned
);

CREATE TABLE sp_messaging.leases (
    campaign text NOT NULL,
    part text NOT NULL,         -- '' is the whole campaign
    holder uuid NOT NULL UNIQUE,
    described text NOT NULL,    -- for people: which process, on which machine
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (campaign, part)
);

CREATE TABLE sp_messaging.messages (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    campaign text COLLATE "C" NOT NULL,
    amazon_order_id text COLLATE "C" NOT NULL,
    operation text COLLATE "C" NOT NULL,
    account text COLLATE "C" NOT NULL,
    marketplace text COLLATE "C",
    status text COLLATE "C" NOT NULL
        CHECK (status IN ('planned', 'sending', 'sent', 'skipped', 'rejected', 'unknown')),
    repeats boolean NOT NULL,   -- sent though another campaign has messaged this pair
    content text,               -- NULL once the row is final
    files integer NOT NULL,     -- that are attached
    digest bytea NOT NULL,      -- of all that the user wrote
    run text COLLATE "C",       -- the last run whose list named it
    cycle text COLLATE "C",     -- the run that planned it, or planned it again
    owner text,                 -- whose intent it is, which one, and until when it holds
    intent uuid,
    deadline timestamptz,
    attempts integer NOT NULL DEFAULT 0,
    request_id text,
    failure text,
    enrolled_at timestamptz NOT NULL,
    changed_at timestamptz NOT NULL,
    sent_at timestamptz,
    UNIQUE (amazon_order_id, operation, campaign)
);
CREATE INDEX messages_to_send ON sp_messaging.messages (run, account, operation, id)
WHERE status = 'planned';
/* Whatever a statement overlooks, no pair has two intents at once. */
CREATE UNIQUE INDEX messages_under_way ON sp_messaging.messages (amazon_order_id, operation)
WHERE status = 'sending';

CREATE TABLE sp_messaging.purged (
    pair bytea PRIMARY KEY      -- a keyed digest of an order and an operation that were messaged
);

CREATE FUNCTION sp_messaging.keyed_digest(amazon_order_id text, operation text) RETURNS bytea
STABLE PARALLEL SAFE LANGUAGE sql AS $$
    SELECT substring(sha256(decode(value, 'hex')
        || convert_to(amazon_order_id || ' ' || operation, 'UTF8')) FROM 1 FOR 16)
    FROM sp_messaging.facts WHERE name = 'key'
$$;

/* Rows as they are to be understood: an intent that no longer holds is of unknown outcome. */
CREATE VIEW sp_messaging.seen AS
SELECT id, campaign, amazon_order_id, operation, account, marketplace,
    CASE WHEN status = 'sending' AND deadline < clock_timestamp() THEN 'unknown' ELSE status END
        AS status,
    status = 'sending' AND deadline < clock_timestamp() AS has_lapsed,
    content, attempts, request_id, failure, deadline, enrolled_at, changed_at, sent_at
FROM sp_messaging.messages;


-- Opening

-- fact
SELECT value FROM sp_messaging.facts WHERE name = %(name)s;

-- set fact
INSERT INTO sp_messaging.facts (name, value) VALUES (%(name)s, %(value)s)
ON CONFLICT (name) DO UPDATE SET value = excluded.value;

-- set first fact
INSERT INTO sp_messaging.facts (name, value) VALUES (%(name)s, %(value)s)
ON CONFLICT (name) DO NOTHING;


-- Intents, and what became of them: many in one transaction

-- begin durably
/* Each statement is to see what others committed before it. All goes by keys, whatever is thought
   of a table that has been filled a moment ago. Who stops in the middle keeps nobody waiting. */
BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL synchronous_commit = on;
SET LOCAL idle_in_transaction_session_timeout = '10s'; SET LOCAL enable_seqscan = off;
SET LOCAL enable_bitmapscan = off; SET LOCAL enable_hashjoin = off;
SET LOCAL enable_mergejoin = off;

-- commit
COMMIT;

-- hold leases
SELECT holder FROM sp_messaging.leases WHERE holder = ANY(%(holders)s::uuid[]) FOR SHARE;

-- lock pairs
/* Whoever intends holds all rows of a pair, of whatever campaign, before it looks at them. */
SELECT FROM sp_messaging.messages WHERE id IN (
    SELECT unnest(%(settled)s::bigint[])
    UNION SELECT other.id FROM sp_messaging.messages AS own
    JOIN sp_messaging.messages AS other USING (amazon_order_id, operation)
    WHERE own.id = ANY(%(intended)s::bigint[]))
ORDER BY id FOR UPDATE;

-- lapse pairs
UPDATE sp_messaging.messages AS messages
SET status = 'unknown', failure = %(failure)s, changed_at = clock_timestamp()
FROM sp_messaging.messages AS own
WHERE own.id = ANY(%(ids)s::bigint[]) AND messages.amazon_order_id = own.amazon_order_id
    AND messages.operation = own.operation AND messages.status = 'sending'
    AND messages.deadline < clock_timestamp();

-- intend
UPDATE sp_messaging.messages AS messages SET status = 'sending', owner = permitted.owner,
    intent = permitted.intent, attempts = attempts + 1, changed_at = clock_timestamp(),
    deadline = clock_timestamp() + permitted.seconds * interval '1 second'
FROM (SELECT DISTINCT ON (own.amazon_order_id, own.operation) own.id, intended.owner,
        intended.intent, intended.seconds
    FROM unnest(%(ids)s::bigint[], %(owners)s::text[], %(intents)s::uuid[],
        %(seconds)s::float8[]) WITH ORDINALITY AS intended (id, owner, intent, seconds, place)
    JOIN sp_messaging.messages AS own ON own.id = intended.id
    WHERE own.status = 'planned'
        AND NOT EXISTS (
            SELECT FROM sp_messaging.messages AS other
            WHERE other.amazon_order_id = own.amazon_order_id
                AND other.operation = own.operation AND other.id <> own.id
                AND (other.status = 'sending'
                    OR (NOT own.repeats AND other.status IN ('sent', 'unknown'))))
        AND (own.repeats OR NOT EXISTS (SELECT FROM sp_messaging.purged)
            OR NOT EXISTS (SELECT FROM sp_messaging.purged WHERE pair =
                sp_messaging.keyed_digest(own.amazon_order_id, own.operation)))
    ORDER BY own.amazon_order_id, own.operation, intended.place) AS permitted
WHERE messages.id = permitted.id AND messages.status = 'planned'
RETURNING messages.id;

-- intended before
/* Of a transaction whose commit was in doubt. */
SELECT messages.id FROM sp_messaging.messages AS messages
JOIN unnest(%(ids)s::bigint[], %(intents)s::uuid[]) AS intended (id, intent) USING (id)
WHERE messages.status = 'sending' AND messages.intent = intended.intent;

-- settle
/* One whose intent was refused may settle its row only if another campaign's message is why. */
UPDATE sp_messaging.messages AS messages SET status = settled.status, owner = NULL,
    intent = NULL, deadline = NULL, request_id = settled.request_id, failure = settled.failure,
    changed_at = clock_timestamp(),
    sent_at = CASE WHEN settled.status = 'sent' THEN clock_timestamp() ELSE sent_at END,
    content = CASE WHEN settled.status IN ('sent', 'skipped', 'rejected') THEN NULL
        ELSE content END
FROM unnest(%(ids)s::bigint[], %(intents)s::uuid[], %(refused)s::boolean[], %(statuses)s::text[],
    %(request_ids)s::text[], %(failures)s::text[])
    AS settled (id, intent, refused, status, request_id, failure)
WHERE messages.id = settled.id
    AND ((messages.status IN ('sending', 'unknown') AND messages.intent = settled.intent)
        OR (messages.status = 'planned' AND (NOT settled.refused OR (NOT messages.repeats AND (
            EXISTS (SELECT FROM sp_messaging.messages AS other
                WHERE other.amazon_order_id = messages.amazon_order_id
                    AND other.operation = messages.operation AND other.id <> messages.id
                    AND other.status IN ('sending', 'sent', 'unknown'))
            OR EXISTS (SELECT FROM sp_messaging.purged WHERE pair = sp_messaging.keyed_digest(
                messages.amazon_order_id, messages.operation)))))));


-- One message

-- row
SELECT * FROM sp_messaging.seen WHERE id = %(id)s;

-- deciding row
SELECT seen.* FROM sp_messaging.messages JOIN sp_messaging.seen USING (id)
WHERE messages.amazon_order_id = %(amazon_order_id)s AND messages.operation = %(operation)s
    AND (messages.campaign = %(campaign)s
        OR (NOT %(again)s AND messages.status IN ('sending', 'sent', 'unknown')))
ORDER BY messages.status IN ('sending', 'sent', 'unknown') DESC,
    messages.campaign = %(campaign)s DESC
LIMIT 1;

-- is purged
SELECT FROM sp_messaging.purged
WHERE pair = sp_messaging.keyed_digest(%(amazon_order_id)s, %(operation)s);

-- plan
INSERT INTO sp_messaging.messages (campaign, amazon_order_id, operation, account, marketplace,
    status, repeats, content, files, digest, enrolled_at, changed_at)
VALUES (%(campaign)s, %(amazon_order_id)s, %(operation)s, %(account)s, %(marketplace)s, 'planned',
    %(again)s, %(content)s, %(files)s, %(digest)s, statement_timestamp(), statement_timestamp())
ON CONFLICT DO NOTHING
RETURNING *, false AS has_lapsed;

-- change plan
UPDATE sp_messaging.messages SET account = %(account)s, marketplace = %(marketplace)s,
    content = %(content)s, files = %(files)s, digest = %(digest)s,
    repeats = repeats OR %(again)s, changed_at = clock_timestamp()
WHERE id = %(id)s AND status = 'planned'
RETURNING *, false AS has_lapsed;


-- A list: staged in a table of its transaction's, then merged

-- begin staging
BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;
SET LOCAL idle_in_transaction_session_timeout = 0; SET LOCAL statement_timeout = 0;
SET LOCAL work_mem = '64MB';
CREATE TEMP TABLE staged (
    line bigint NOT NULL,
    amazon_order_id text COLLATE "C" NOT NULL,
    operation text COLLATE "C" NOT NULL,
    account text COLLATE "C" NOT NULL,
    marketplace text COLLATE "C",
    content text NOT NULL,
    files integer NOT NULL,
    digest bytea NOT NULL
) ON COMMIT DROP;

-- stage
COPY pg_temp.staged FROM STDIN;

-- find repeated
DROP TABLE IF EXISTS pg_temp.repeated;
ANALYZE pg_temp.staged;
CREATE TEMP TABLE repeated ON COMMIT DROP AS
SELECT amazon_order_id, operation, min(line) AS line FROM pg_temp.staged
GROUP BY amazon_order_id, operation HAVING count(*) > 1;
ANALYZE pg_temp.repeated;

-- staged conflicts
SELECT later.line, first.line AS first_line, later.amazon_order_id, later.operation,
    count(*) OVER () AS total
FROM pg_temp.repeated
JOIN pg_temp.staged AS first USING (line)
JOIN pg_temp.staged AS later ON later.amazon_order_id = repeated.amazon_order_id
    AND later.operation = repeated.operation
WHERE later.digest <> first.digest OR later.content <> first.content
ORDER BY later.line LIMIT %(limit)s;

-- drop conflicts
DELETE FROM pg_temp.staged WHERE (amazon_order_id, operation) IN (
    SELECT later.amazon_order_id, later.operation FROM pg_temp.repeated
    JOIN pg_temp.staged AS first USING (line)
    JOIN pg_temp.staged AS later ON later.amazon_order_id = repeated.amazon_order_id
        AND later.operation = repeated.operation
    WHERE later.digest <> first.digest OR later.content <> first.content);

-- merge identical
DELETE FROM pg_temp.staged USING pg_temp.repeated
WHERE staged.amazon_order_id = repeated.amazon_order_id
    AND staged.operation = repeated.operation AND staged.line > repeated.line;

-- begin merging
SET LOCAL idle_in_transaction_session_timeout = '60s'; SET LOCAL synchronous_commit = on;

-- lock merging
SELECT pg_advisory_xact_lock(
    hashtextextended('sp-messaging-async ' || %(schema)s || ' campaign ' || %(campaign)s, 0));

-- lapse all
UPDATE sp_messaging.messages
SET status = 'unknown', failure = %(failure)s, changed_at = clock_timestamp()
WHERE id IN (SELECT id FROM sp_messaging.messages
    WHERE status = 'sending' AND deadline < clock_timestamp() ORDER BY id FOR UPDATE)
    AND status = 'sending' AND deadline < clock_timestamp();

-- begin run
INSERT INTO sp_messaging.runs (id, campaign, began_at)
VALUES (%(run)s, %(campaign)s, clock_timestamp());

-- reopen
UPDATE sp_messaging.messages AS messages SET status = 'planned', repeats = true,
    content = staged.content, files = staged.files, digest = staged.digest,
    account = staged.account, marketplace = staged.marketplace, owner = NULL, intent = NULL,
    deadline = NULL, attempts = 0, request_id = NULL, failure = NULL, sent_at = NULL,
    changed_at = clock_timestamp(), cycle = %(run)s
FROM pg_temp.staged AS staged
WHERE messages.amazon_order_id = staged.amazon_order_id
    AND messages.operation = staged.operation AND messages.campaign = %(campaign)s
    AND messages.status IN ('sent', 'skipped', 'rejected', 'unknown')
    AND NOT EXISTS (SELECT FROM sp_messaging.runs
        WHERE runs.id = messages.cycle AND runs.ended_at IS NULL);

-- permit repeats
UPDATE sp_messaging.messages AS messages SET repeats = true
FROM pg_temp.staged AS staged
WHERE messages.amazon_order_id = staged.amazon_order_id
    AND messages.operation = staged.operation AND messages.campaign = %(campaign)s
    AND messages.status = 'planned' AND NOT messages.repeats;

-- change planned rows
UPDATE sp_messaging.messages AS messages SET content = staged.content, files = staged.files,
    digest = staged.digest, account = staged.account, marketplace = staged.marketplace,
    changed_at = clock_timestamp()
FROM pg_temp.staged AS staged
WHERE messages.amazon_order_id = staged.amazon_order_id
    AND messages.operation = staged.operation AND messages.campaign = %(campaign)s
    AND messages.status = 'planned'
    AND (messages.digest <> staged.digest OR messages.content <> staged.content);

-- plan new rows
INSERT INTO sp_messaging.messages (campaign, amazon_order_id, operation, account, marketplace,
    status, repeats, content, files, digest, run, cycle, enrolled_at, changed_at)
SELECT %(campaign)s, staged.amazon_order_id, staged.operation, staged.account, staged.marketplace,
    'planned', %(again)s, staged.content, staged.files, staged.digest, %(run)s, %(run)s,
    statement_timestamp(), statement_timestamp()
FROM pg_temp.staged AS staged
WHERE NOT EXISTS (
        SELECT FROM sp_messaging.messages AS own
        WHERE own.amazon_order_id = staged.amazon_order_id
            AND own.operation = staged.operation AND own.campaign = %(campaign)s)
    AND (%(again)s OR NOT EXISTS (
        SELECT FROM sp_messaging.messages AS other
        WHERE other.amazon_order_id = staged.amazon_order_id
            AND other.operation = staged.operation
            AND other.status IN ('sending', 'sent', 'unknown')))
    AND (%(again)s OR NOT EXISTS (SELECT FROM sp_messaging.purged)
        OR NOT EXISTS (SELECT FROM sp_messaging.purged WHERE pair =
            sp_messaging.keyed_digest(staged.amazon_order_id, staged.operation)))
ORDER BY staged.line
ON CONFLICT DO NOTHING;

-- claim for run
UPDATE sp_messaging.messages AS messages SET run = %(run)s
FROM pg_temp.staged AS staged
WHERE messages.amazon_order_id = staged.amazon_order_id
    AND messages.operation = staged.operation AND messages.campaign = %(campaign)s
    AND messages.run IS DISTINCT FROM %(run)s;

-- look at messages
ANALYZE sp_messaging.messages;

-- find left alone
CREATE TEMP TABLE left_alone ON COMMIT DROP AS
SELECT asked.line, asked.amazon_order_id, asked.operation,
    coalesce(decided.status, 'sent') AS status, decided.campaign,
    coalesce(decided.digest <> asked.digest, false) AS is_changed
FROM (
    SELECT staged.line, staged.amazon_order_id, staged.operation, staged.digest,
        own.id AS own, own.status AS own_status
    FROM pg_temp.staged AS staged
    LEFT JOIN sp_messaging.messages AS own ON own.amazon_order_id = staged.amazon_order_id
        AND own.operation = staged.operation AND own.campaign = %(campaign)s
    LEFT JOIN (
        SELECT DISTINCT amazon_order_id, operation FROM sp_messaging.messages
        WHERE status IN ('sending', 'sent', 'unknown')) AS messaged
        ON messaged.amazon_order_id = staged.amazon_order_id
        AND messaged.operation = staged.operation
    WHERE own.id IS NULL OR own.status <> 'planned'
        OR (NOT own.repeats AND messaged.operation IS NOT NULL)) AS asked
LEFT JOIN LATERAL (
    SELECT other.status, other.campaign, other.digest
    FROM sp_messaging.messages AS other
    WHERE other.amazon_order_id = asked.amazon_order_id AND other.operation = asked.operation
        AND ((other.id = asked.own AND other.status <> 'planned')
            OR other.status IN ('sending', 'sent', 'unknown'))
    ORDER BY other.id IS NOT DISTINCT FROM asked.own DESC LIMIT 1) AS decided ON true;

-- left alone
SELECT line, amazon_order_id, operation, status, campaign FROM pg_temp.left_alone
ORDER BY status = 'sent' AND coalesce(campaign, %(campaign)s) = %(campaign)s, line
LIMIT %(limit)s;

-- changed left alone
SELECT line, amazon_order_id, operation, status, campaign, count(*) OVER () AS total
FROM pg_temp.left_alone WHERE is_changed ORDER BY line LIMIT %(limit)s;

-- count left alone
SELECT status, count(*) AS number FROM pg_temp.left_alone GROUP BY status;

-- left of an earlier list
SELECT amazon_order_id, count(*) OVER () AS total FROM sp_messaging.messages
WHERE status = 'planned' AND campaign = %(campaign)s AND run IS DISTINCT FROM %(run)s
    AND cycle IN (
        SELECT own.cycle FROM sp_messaging.messages AS own
        JOIN sp_messaging.runs AS runs ON runs.id = own.cycle
        WHERE own.run = %(run)s AND own.status <> 'planned' AND runs.ended_at IS NULL)
ORDER BY id LIMIT 1;


-- A run

-- lanes
SELECT account, operation, count(*) AS number, sum(files)::bigint AS files
FROM sp_messaging.messages
WHERE run = %(run)s AND status = 'planned'
    AND (%(account)s::text IS NULL OR account = %(account)s)
    AND (%(places)s::text[] IS NULL OR coalesce(marketplace, '') = ANY(%(places)s))
GROUP BY account, operation ORDER BY account, operation;

-- marketplaces
SELECT DISTINCT marketplace FROM sp_messaging.messages
WHERE run = %(run)s AND status = 'planned'
    AND (%(account)s::text IS NULL OR account = %(account)s)
    AND (%(places)s::text[] IS NULL OR coalesce(marketplace, '') = ANY(%(places)s));

-- shares
SELECT account, array_agg(DISTINCT marketplace) AS marketplaces, count(*) AS number
FROM sp_messaging.messages WHERE run = %(run)s AND status = 'planned'
GROUP BY account ORDER BY account;

-- to send
SELECT *, false AS has_lapsed FROM sp_messaging.messages
WHERE run = %(run)s AND account = %(account)s AND operation = %(operation)s
    AND status = 'planned' AND id > %(after)s
    AND (%(places)s::text[] IS NULL OR coalesce(marketplace, '') = ANY(%(places)s))
ORDER BY id LIMIT %(limit)s;

-- end run
UPDATE sp_messaging.runs SET ended_at = clock_timestamp()
WHERE ended_at IS NULL
    AND NOT EXISTS (SELECT FROM sp_messaging.messages
        WHERE run = %(run)s AND status = 'planned')
    AND NOT EXISTS (SELECT FROM sp_messaging.messages
        WHERE run = %(run)s AND status = 'sending')
    AND id IN (
        SELECT cycle FROM sp_messaging.messages WHERE cycle IS NOT NULL GROUP BY cycle
        HAVING bool_and(run IS NOT DISTINCT FROM %(run)s)
            AND NOT bool_or(status IN ('planned', 'sending')));

-- campaign of run
SELECT campaign FROM sp_messaging.runs WHERE id = %(run)s;


-- Who sends a campaign, or a part of one

-- take lease
/* After "lock merging" has made sure that one takes at a time. */
WITH gone AS (
    DELETE FROM sp_messaging.leases
    WHERE campaign = %(campaign)s AND expires_at < clock_timestamp()),
in_the_way AS (
    SELECT described FROM sp_messaging.leases
    WHERE campaign = %(campaign)s AND expires_at >= clock_timestamp()
        AND (part = %(part)s OR part = '' OR %(part)s = '') LIMIT 1)
SELECT described FROM in_the_way;

-- write lease
INSERT INTO sp_messaging.leases (campaign, part, holder, described, expires_at)
VALUES (%(campaign)s, %(part)s, %(holder)s, %(described)s,
    clock_timestamp() + %(seconds)s * interval '1 second')
ON CONFLICT (campaign, part) DO UPDATE SET holder = excluded.holder,
    described = excluded.described, expires_at = excluded.expires_at;

-- renew lease
UPDATE sp_messaging.leases SET expires_at = clock_timestamp() + %(seconds)s * interval '1 second'
WHERE holder = %(holder)s;

-- give lease back
DELETE FROM sp_messaging.leases WHERE holder = %(holder)s;


-- What a person asks

-- counts
SELECT CASE WHEN status = 'sending' AND deadline < clock_timestamp() THEN 'unknown' ELSE status
    END AS status, count(*) AS number
FROM sp_messaging.messages
WHERE (%(campaign)s::text IS NULL OR campaign = %(campaign)s)
    AND (%(run)s::text IS NULL OR run = %(run)s)
GROUP BY 1;

-- rows
SELECT * FROM sp_messaging.seen
WHERE id > %(after)s AND (%(campaign)s::text IS NULL OR campaign = %(campaign)s)
    AND (%(status)s::text IS NULL OR status = %(status)s)
ORDER BY id LIMIT %(limit)s;

-- resolve
UPDATE sp_messaging.messages SET status = %(status)s, owner = NULL, intent = NULL,
    deadline = NULL, changed_at = clock_timestamp(),
    failure = CASE WHEN %(status)s = 'sent' THEN NULL ELSE failure END,
    content = CASE WHEN %(status)s = 'sent' THEN NULL ELSE content END
WHERE amazon_order_id = %(amazon_order_id)s AND operation = %(operation)s AND status = 'unknown'
    AND (%(campaign)s::text IS NULL OR campaign = %(campaign)s);

-- purge
WITH gone AS (
    DELETE FROM sp_messaging.messages
    WHERE status IN ('sent', 'skipped', 'rejected') AND changed_at < %(before)s
    RETURNING amazon_order_id, operation, status),
remembered AS (
    INSERT INTO sp_messaging.purged
    SELECT DISTINCT sp_messaging.keyed_digest(amazon_order_id, operation) FROM gone
    WHERE status = 'sent'
    ON CONFLICT DO NOTHING)
SELECT count(*) AS number FROM gone;
