import type pg from 'pg';
import { SCHEMA_LOCK } from '../../seat.ts';

/** What readers listen to: records were appended (payload: the partitions), a group's members changed (the group). */
export const LOG_CHANNEL = 'conger_log';
export const GROUP_CHANNEL = 'conger_group';

/** SQLSTATE that an append gets once another writer has taken the log over. */
export const FENCED = 'CGF01';

const TABLES = `
  CREATE TABLE IF NOT EXISTS conger_log (
    partition int NOT NULL,
    position text COLLATE "C" NOT NULL,
    seq bigint NOT NULL,
    partition_key text NOT NULL,
    xid bigint NOT NULL,
    idx int NOT NULL,
    cnt int NOT NULL,
    time bigint NOT NULL,
    body text NOT NULL,
    PRIMARY KEY (partition, position)
  );
  -- Not there in a log of 0.1.0, whose writers leave it empty.
  ALTER TABLE conger_log ADD COLUMN IF NOT EXISTS last int;
  CREATE TABLE IF NOT EXISTS conger_log_writer (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    generation bigint NOT NULL,
    partitions int NOT NULL
  );
  CREATE TABLE IF NOT EXISTS conger_log_trimmed (
    partition int PRIMARY KEY,
    position text COLLATE "C" NOT NULL
  );
  CREATE TABLE IF NOT EXISTS conger_log_member (
    seat text NOT NULL,
    pid int NOT NULL,
    grp text COLLATE "C" NOT NULL,
    member text COLLATE "C" NOT NULL,
    PRIMARY KEY (seat, grp, member)
  );
  CREATE OR REPLACE FUNCTION conger_log_fence(mine bigint) RETURNS void LANGUAGE plpgsql AS $$
  BEGIN
    PERFORM 1 FROM conger_log_writer WHERE generation = mine FOR SHARE;
    IF NOT FOUND THEN
      RAISE EXCEPTION 'another writer has taken the log over' USING ERRCODE = '${FENCED}';
    END IF;
  END $$;
`;

/**
 * Makes the log's tables where they are missing, or of an earlier version.
 * @throws Error where the log exists with another number of partitions.
 */
export async function ensureLog(client: pg.ClientBase, partitions: number): Promise<void> {
  let found = await readPartitions(client);
  if (found === undefined) {
    // A statement string of its own is one transaction, which the lock lasts for.
    await client.query(`
      SELECT pg_advisory_xact_lock(${SCHEMA_LOCK});
      ${TABLES}
      INSERT INTO conger_log_writer (generation, partitions) VALUES (0, ${Math.trunc(partitions)})
        ON CONFLICT DO NOTHING;`);
    found = await readPartitions(client);
  }
  if (found !== partitions) {
    throw new Error(
      `the log has ${found} partitions, and the configuration says ${partitions}: keep to the log's`,
    );
  }
}

/** Undefined where the tables are missing, or of an earlier version. */
async function readPartitions(client: pg.ClientBase): Promise<number | undefined> {
  const exists = await client.query<{ there: boolean }>(
    `SELECT to_regclass('conger_log_writer') IS NOT NULL
            AND EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass('conger_log') AND attname = 'last') AS there`,
  );
  if (exists.rows[0]?.there !== true) return undefined;
  const { rows } = await client.query<{ partitions: number }>('SELECT partitions FROM conger_log_writer');
  return rows[0]?.partitions;
}
