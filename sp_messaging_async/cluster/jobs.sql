-- What is said to the tables of Procrastinate beside what it says itself, and what is asked of the
-- ledger's for the status of all. A statement begins with a line that names it and ends at the next
-- one. All names are found by the search path, which is the ledger's schema.


-- A job, for whoever is to change it

-- lock job
/* Only while it is the one that was taken: who was away for too long changes nothing of another's. */
SELECT clock_timestamp() + %(seconds)s * interval '1 second' AS due,
    EXISTS (SELECT FROM procrastinate_jobs AS other
        WHERE other.status = 'todo' AND other.queueing_lock = job.queueing_lock) AS waits_again
FROM procrastinate_jobs AS job
WHERE job.id = %(job_id)s AND job.status = 'doing' AND job.attempts = %(attempts)s
    AND job.worker_id IS NOT DISTINCT FROM %(worker_id)s
FOR UPDATE OF job;

-- wake
/* Procrastinate tells workers of new jobs only, and not of those that may be taken again. */
SELECT pg_notify(%(channel)s, json_build_object('type', 'job_inserted', 'job_id', id)::text)
FROM procrastinate_jobs
WHERE status = 'todo' AND (id = %(job_id)s OR lock = %(lock)s)
    AND coalesce(scheduled_at <= clock_timestamp(), true)
ORDER BY id LIMIT 1;

-- jobs of worker
SELECT id, attempts, lock FROM procrastinate_jobs
WHERE status = 'doing' AND worker_id = %(worker_id)s;

-- still here
UPDATE procrastinate_workers SET last_heartbeat = clock_timestamp() WHERE id = %(worker_id)s
RETURNING last_heartbeat;


-- Enqueuing

-- waiting
SELECT queueing_lock FROM procrastinate_jobs
WHERE status = 'todo' AND queueing_lock = ANY(%(locks)s::text[]);

-- forget ended
/* What had failed is tried again by the new job, and is told of no more. */
DELETE FROM procrastinate_jobs
WHERE status NOT IN ('todo', 'doing') AND queueing_lock = ANY(%(locks)s::text[]);


-- The status of all

-- campaigns
SELECT campaign, status, count(*) AS number,
    count(*) FILTER (WHERE sent_at > clock_timestamp() - interval '1 minute') AS lately
FROM seen GROUP BY campaign, status ORDER BY campaign, status;

-- planned
SELECT campaign, account, operation, count(*) AS number, sum(files)::bigint AS files
FROM messages WHERE status = 'planned' GROUP BY campaign, account, operation;

-- workers
SELECT count(*) AS number FROM procrastinate_workers
WHERE last_heartbeat > clock_timestamp() - %(seconds)s * interval '1 second';

-- jobs
SELECT count(*) FILTER (WHERE status = 'todo') AS waiting,
    count(*) FILTER (WHERE status = 'doing') AS running,
    count(*) FILTER (WHERE status = 'failed') AS failed
FROM procrastinate_jobs WHERE task_name = %(task_name)s;

-- failed
SELECT args ->> 'account' AS account, args ->> 'region' AS region, runs.campaign
FROM procrastinate_jobs LEFT JOIN runs ON runs.id = args ->> 'run'
WHERE status = 'failed' AND task_name = %(task_name)s
ORDER BY procrastinate_jobs.id DESC LIMIT %(limit)s;
