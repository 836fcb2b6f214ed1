import type { Kind } from './managed.ts';

/** What goes wrong in a run. */
export interface Scenario {
  readonly name: string;
  readonly what: string;
  /** Which faults are drawn from, by their names (faults.ts). */
  readonly faults: RegExp;
  /** How many there are, one after the other. */
  readonly count: number;
  /** Plans of failpoints: drawn from the seed (absent), or these, for the successive lives of every process. */
  readonly plans?: Partial<Readonly<Record<Kind, readonly string[]>>>;
  /** How many services there are (2). */
  readonly services?: number;
  /** Whether changes are lost, so that a new epoch begins and everyone is told. */
  readonly gaps?: boolean;
  /** A log that it needs. */
  readonly log?: 'embedded' | 'kafka';
  /** Whether a listener reads what it was told of. */
  readonly reads?: boolean;
  /** Bytes that each value of a large batch has besides. */
  readonly padding?: number;
  /** The brokers that it needs. */
  readonly brokers?: 3;
  /** The standby that PostgreSQL has. */
  readonly standby?: 'with slots' | 'without slots';
  /** Whether PostgreSQL has small disks. */
  readonly disks?: boolean;
}

const any = /^(process|clock|network|postgres|kafka):(?!pause-long$)/;
const none = /^$/;
const kill = (...names: readonly string[]) => names.map((name, i) => `${name}=kill@${2 + 5 * i}`);

export const scenarios: readonly Scenario[] = [
  { name: 'any', what: 'faults of every kind, and failpoints', faults: any, count: 3 },
  { name: 'short', what: 'one fault of any kind, and failpoints', faults: any, count: 1 },
  { name: 'quiet', what: 'nothing goes wrong', faults: none, count: 1, plans: {} },
  { name: 'processes', what: 'processes are killed and stopped', faults: /^process:/, count: 3, services: 3 },
  {
    name: 'clocks',
    what: 'clocks of processes jump by minutes, ahead and back, amid kills',
    faults: /^(clock:jump|process:kill)$/,
    count: 6,
  },
  { name: 'network', what: 'connections break, stall and lose bytes', faults: /^network:/, count: 4 },
  {
    name: 'postgres',
    what: 'PostgreSQL ends connections, stops and crashes',
    faults: /^postgres:/,
    count: 3,
  },
  {
    name: 'broker',
    what: 'Kafka’s broker is killed under appends and comes back',
    faults: /^kafka:restart$/,
    count: 2,
    log: 'kafka',
  },
  {
    name: 'broker-network',
    what: 'brokers stop, and connections to them break, stall and lose bytes',
    faults: /^kafka:(pause|cut|cut-some|refuse|hold|lose-.*)$/,
    count: 4,
    log: 'kafka',
  },
  {
    name: 'leader-change',
    what: 'the leader of a partition is killed, another leads, and it leads again when it is back',
    faults: /^leader:change$/,
    count: 2,
    log: 'kafka',
    brokers: 3,
  },
  {
    name: 'failover',
    what: 'the primary dies, stops or is cut off, and its standby is promoted',
    faults: /^failover:/,
    count: 1,
    reads: true,
    standby: 'with slots',
  },
  {
    name: 'failover-without-slot',
    what: 'the standby that is promoted has no slot: a new epoch begins, and listeners take snapshots',
    faults: /^failover:/,
    count: 1,
    plans: {},
    standby: 'without slots',
    gaps: true,
  },
  {
    name: 'crash-before-publication',
    what: 'whoever knows of a write dies between its commit and its way into the log',
    faults: none,
    count: 1,
    plans: {
      kvstore: kill('kvstore.group.after', 'kvstore.commit.after'),
      capture: kill('capture.receive.before', 'capture.visible.after', 'capture.append.before'),
    },
  },
  {
    name: 'crash-after-append',
    what: 'the capture dies when records are in the log and nobody has taken note of it',
    faults: none,
    count: 1,
    plans: {
      capture: kill('capture.append.after', 'capture.confirm.before', 'capture.confirm.after'),
    },
  },
  {
    name: 'duplicate-append',
    what: 'a writer that was paused appends again what is there',
    faults: /^kafka:duplicate$/,
    count: 4,
    plans: {},
    log: 'kafka',
  },
  {
    name: 'failed-send',
    what: 'instances die and stop while they send, with listeners connected to them',
    faults: /^network:cut-all$/,
    count: 2,
    plans: { service: kill('feed.send.after', 'feed.send.before', 'broadcast.take.after') },
  },
  {
    name: 'torn-snapshot',
    what: 'instances die while they read and send snapshots, amid writes',
    faults: none,
    count: 4,
    plans: {
      service: [
        'feed.snapshot.after=kill@1',
        'feed.snapshot.before=kill@2',
        'feed.snapshot.after=delay:600%0.5',
      ],
    },
  },
  {
    name: 'rebalance',
    what: 'members come, go, and stop for long enough to lose what they own',
    faults: /^process:(pause-long|kill-services)$/,
    count: 2,
    services: 3,
    plans: { service: ['group.revoke.after=delay:900@1', 'group.assign.after=kill@3'] },
  },
  {
    name: 'double-effect',
    what: 'consumers die, stop and lose what they own around the commit of their effects',
    faults: /^(network:lose-log|process:pause-long)$/,
    count: 3,
    plans: {
      service: [
        'checkpoint.commit.before=delay:500%0.4,checkpoint.commit.after=kill@9',
        'checkpoint.commit.before=delay:500%0.4,consumer.handle.after=error@5',
        'checkpoint.commit.before=delay:500%0.4',
      ],
    },
  },
  {
    name: 'orphaned-walsender',
    what: 'the capture is stopped, or cut off without a word, and holds the slot',
    faults: /^(process:pause-long|network:hold|postgres:end-walsender)$/,
    count: 2,
    plans: { capture: ['capture.append.before=stop@4', 'capture.free.before=kill@1'] },
  },
  {
    name: 'slow-sink',
    what: 'the log pushes back on the stream',
    faults: none,
    count: 1,
    plans: { capture: ['capture.append.before=delay:700%0.3', 'capture.append.before=delay:300%0.3'] },
  },
  {
    name: 'lost-notifications',
    what: 'bells are lost with the connections that bring them',
    faults: /^(network:cut-all|postgres:terminate)$/,
    count: 5,
    plans: {},
    log: 'embedded',
  },
  {
    name: 'lost-slot',
    what: 'the slot is dropped under writes: a new epoch begins, and listeners take snapshots',
    faults: /^slot:drop$/,
    count: 2,
    plans: {},
    gaps: true,
  },
  {
    name: 'invalidated-slot',
    what: 'no capture reads for so long that PostgreSQL gives the slot up: a new epoch begins',
    faults: /^slot:invalidate$/,
    count: 1,
    plans: {},
    gaps: true,
  },
  {
    name: 'open-transaction',
    what: 'a transaction stays open while captures die, and begin anew behind it',
    faults: /^transaction:open$/,
    count: 2,
    plans: {},
  },
  {
    name: 'large-transaction',
    what: 'captures die amid transactions that are larger than they hold in memory',
    faults: /^process:kill-captures$/,
    count: 3,
    plans: { capture: ['capture.append.after=kill@20', 'capture.append.before=kill@10'] },
    padding: 20_000,
  },
  {
    name: 'schema-change',
    what: 'the bucket gets a new version with one more index, under its writers',
    faults: /^schema:change$/,
    count: 1,
  },
  {
    name: 'stale-cache',
    what: 'a listener reads each object that it is told of, while connections break and servers die',
    faults: /^(network:(cut|cut-all|hold)|process:(kill|pause)|postgres:terminate)$/,
    count: 3,
    reads: true,
  },
  {
    name: 'disk-full',
    what: 'the disks of PostgreSQL’s tables and WAL are full, until they are not',
    faults: /^disk:(tables|wal)$/,
    count: 2,
    plans: {},
    disks: true,
  },
  {
    name: 'spool-full',
    what: 'the disk on which captures keep large transactions is full, until it is not',
    faults: /^disk:spool$/,
    count: 2,
    plans: {},
    padding: 20_000,
    disks: true,
  },
  {
    name: 'failed-append',
    what: 'appends fail as they do when the log has no room, until it has',
    faults: none,
    count: 1,
    plans: {
      capture: [
        'log.embedded.append.before=error%0.4,log.kafka.send.before=error%0.4',
        'log.embedded.append.before=error%0.4,log.kafka.send.before=error%0.4',
      ],
    },
  },
];
