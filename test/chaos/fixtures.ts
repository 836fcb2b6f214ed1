import { execFile } from 'node:child_process';
import { cp, symlink } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import {
  type Node,
  type ReplicatedPostgres,
  startReplicatedPostgres,
} from '../fixtures/replicated-postgres.ts';
import { until } from '../until.ts';
import { type Brokers, startBrokers } from './brokers.ts';
import { patienceMs } from './patience.ts';
import { slotKeepMb } from './postgres-faults.ts';
import { SmallDisk } from './small-disk.ts';

/** What stands under a run. */
export interface Shape {
  readonly log: 'embedded' | 'kafka';
  /** How many brokers Kafka has (1); where there are three, two must have a record. */
  readonly brokers?: 1 | 3;
  /** Whether PostgreSQL has a synchronous standby (it has none), and whether the slots of captures come along there. */
  readonly standby?: 'with slots' | 'without slots';
  /** Whether tables and WAL are on small disks that can be filled (no). */
  readonly disks?: boolean;
}

/** Of a PostgreSQL's tables, of its WAL, and of the captures' large transactions. */
export interface Disks {
  readonly tables: SmallDisk;
  readonly wal: SmallDisk;
  readonly spool: SmallDisk;
}

/** What the runs of one shape share; each has a database, a slot and a topic of its own. */
export interface Fixtures {
  readonly log: 'embedded' | 'kafka';
  /** PostgreSQL's primary. */
  readonly postgres: Node;
  /** Primary and standby, where there is one. */
  readonly replicas: ReplicatedPostgres | undefined;
  readonly kafka: Brokers | undefined;
  readonly disks: Disks | undefined;
  /** Makes a database; answers its URL at each host of PostgreSQL. */
  database(name: string): Promise<readonly URL[]>;
  /** Lets everything go on that was stopped, and starts what is gone. */
  heal(): Promise<void>;
  /** Removes the database and the slot. */
  drop(name: string, slot: string): Promise<void>;
  /** Copies PostgreSQL's data, as a crash would leave it. */
  keep(directory: string): Promise<void>;
  stop(): Promise<void>;
}

/** Processes that have ways of their own to the brokers: the captures, and the services. */
const ways = 5;

export async function startFixtures(shape: Shape): Promise<Fixtures> {
  const { log, standby, brokers = 1 } = shape;
  const [postgres, kafka] = await Promise.allSettled([
    startReplicatedPostgres({
      settings: {
        max_connections: '200',
        max_replication_slots: '200',
        max_slot_wal_keep_size: `${slotKeepMb}MB`,
        // What is larger is sent before its commit.
        logical_decoding_work_mem: '1MB',
      },
      standby: standby !== undefined,
      failoverSlots: standby === 'with slots',
    }),
    log === 'kafka' ? startBrokers(brokers, ways) : undefined,
  ]);
  if (postgres.status === 'rejected' || kafka.status === 'rejected') {
    if (kafka.status === 'fulfilled') await kafka.value?.stop();
    if (postgres.status === 'fulfilled') await postgres.value.stop();
    throw postgres.status === 'rejected' ? postgres.reason : (kafka as PromiseRejectedResult).reason;
  }
  const fixtures = new RunningFixtures(shape, postgres.value, kafka.value);
  try {
    if (shape.disks === true) await fixtures.moveToDisks();
  } catch (error) {
    await fixtures.stop();
    throw error;
  }
  return fixtures;
}

class RunningFixtures implements Fixtures {
  readonly log: 'embedded' | 'kafka';
  readonly replicas: ReplicatedPostgres | undefined;
  readonly kafka: Brokers | undefined;
  readonly #servers: ReplicatedPostgres;
  disks: Disks | undefined;

  constructor({ log, standby }: Shape, servers: ReplicatedPostgres, kafka: Brokers | undefined) {
    this.log = log;
    this.#servers = servers;
    this.replicas = standby === undefined ? undefined : servers;
    this.kafka = kafka;
  }

  get postgres(): Node {
    return this.#servers.primary();
  }

  async moveToDisks(): Promise<void> {
    const tables = await SmallDisk.make(96);
    const wal = await SmallDisk.make(256);
    this.disks = { tables, wal, spool: await SmallDisk.make(64) };
    const here = join(this.postgres.data, 'pg_wal');
    await this.postgres.kill('SIGKILL');
    const there = join(wal.directory, 'pg_wal');
    await promisify(execFile)('mv', [here, there]);
    await symlink(there, here);
    await this.postgres.start();
    await this.postgres.query(`CREATE TABLESPACE small LOCATION '${tables.directory}'`);
  }

  async database(name: string): Promise<readonly URL[]> {
    await this.heal();
    const where = this.disks === undefined ? '' : ' TABLESPACE small';
    await this.postgres.query(`CREATE DATABASE ${name} OWNER conger${where}`);
    const hosts = this.replicas === undefined ? [this.postgres.url] : this.replicas.url.split(',');
    return hosts.map((host) => {
      const url = new URL(host);
      url.pathname = name;
      return url;
    });
  }

  async heal(): Promise<void> {
    await this.kafka?.heal();
    await this.disks?.tables.empty();
    await this.disks?.wal.empty();
    await this.disks?.spool.empty();
    await this.postgres.kill('SIGCONT');
    await this.postgres.start();
    if (this.replicas !== undefined && this.replicas.standby()?.running !== true) {
      await this.replicas.addStandby();
    }
  }

  async drop(name: string, slot: string): Promise<void> {
    await this.heal();
    await this.#eventually(
      `SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots
        WHERE slot_name = '${slot}' AND active_pid IS NOT NULL`,
      `SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '${slot}'`,
    );
    // A standby that is about to drop a database, and is synchronising a slot of it, ends.
    await this.replicas?.untilGone(slot);
    await this.#eventually(`DROP DATABASE IF EXISTS ${name} WITH (FORCE)`);
  }

  /** What a connection that was begun before its process died may get in the way of, for as long as PostgreSQL takes to see it. */
  async #eventually(...statements: readonly string[]): Promise<void> {
    const done = async () => {
      for (const sql of statements) await this.postgres.query(sql);
      return true;
    };
    await until(statements.join('; '), done, patienceMs);
  }

  async keep(directory: string): Promise<void> {
    const { data } = this.postgres;
    await this.postgres.kill('SIGKILL');
    await cp(data, directory, { recursive: true });
    await this.postgres.start();
  }

  async stop(): Promise<void> {
    await this.kafka?.stop();
    await this.#servers.stop();
    await this.disks?.tables.remove();
    await this.disks?.wal.remove();
    await this.disks?.spool.remove();
  }
}
