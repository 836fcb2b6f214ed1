/** Failures that others have had with changefeeds, and the scenarios and tests that show each to be none here. */
export interface KnownFailure {
  readonly failure: string;
  /** Names of scenarios. */
  readonly scenarios?: readonly string[];
  /** Files; in parentheses, which of their tests. */
  readonly tests?: readonly string[];
}

/** Of changefeeds that poll a table, with several publishers. */
const publishers: readonly KnownFailure[] = [
  { failure: 'a publisher hides an item from the other instance’s listeners', scenarios: ['quiet'] },
  { failure: 'two publishers send one item twice', scenarios: ['quiet', 'duplicate-append'] },
  {
    failure: 'a crash between a write and its publication loses the change',
    scenarios: ['crash-before-publication', 'crash-after-append'],
  },
  { failure: 'a publication that fails fails a committed write', scenarios: ['failed-append', 'disk-full'] },
  { failure: 'published with no listener, or after a failed send: no replay', scenarios: ['failed-send'] },
  { failure: 'out of order, cut at the page size', scenarios: ['quiet', 'large-transaction'] },
  {
    failure: 'a change that matches N subscriptions is sent N times',
    tests: ['changefeed/feeds/triton.test.ts'],
  },
  {
    failure: 'two listeners with one instance id replace each other',
    tests: ['changefeed/feeds/triton.test.ts'],
  },
  { failure: 'mixed versions', tests: ['changefeed/change.test.ts', 'changefeed/consumer.test.ts'] },
  { failure: 'a reconnect loses updates', scenarios: ['network', 'broker-network'] },
  {
    failure: 'a cache serves what was there before its invalidation',
    scenarios: ['stale-cache'],
    tests: ['changefeed/capture/capture.pg.test.ts (visible to a new read)'],
  },
  {
    failure: 'waits live in one instance’s memory',
    tests: ['services/common/jobs/engine.test.ts', 'services/cnapi/tasks.pg.test.ts'],
  },
  {
    failure: 'a stale instance marks a live server unknown',
    tests: ['services/cnapi/liveness/liveness.test.ts', 'services/cnapi/servers.pg.test.ts'],
  },
];

/** Of changes that are taken out of PostgreSQL. */
const postgres: readonly KnownFailure[] = [
  { failure: 'sequences and xmin are not commit order', scenarios: ['any', 'open-transaction'] },
  {
    failure: 'order of visibility is not order of the WAL: a snapshot disagrees with the feed',
    scenarios: ['torn-snapshot', 'failover'],
  },
  {
    failure: 'failover loses acknowledged rows',
    scenarios: ['failover'],
    tests: ['test/linearizability/failover.ts (npm run linearizability)'],
  },
  { failure: 'a slot is lost on failover', scenarios: ['failover', 'failover-without-slot'] },
  {
    failure: 'a reader is ahead of the standby that is promoted',
    scenarios: ['failover'],
    tests: [
      'changefeed/capture/failover-slot.pg.test.ts',
      'changefeed/capture/failover-slot.kafka.test.ts (Kafka is never ahead)',
    ],
  },
  {
    failure: 'a slot is lost, or invalidated, and nobody downstream is told',
    scenarios: ['lost-slot', 'invalidated-slot', 'failover-without-slot'],
    tests: ['changefeed/capture/invalidated.pg.test.ts'],
  },
  {
    failure: 'an idle publication lets WAL grow',
    tests: ['changefeed/capture/capture.pg.test.ts (the slot moves on; a quiet shard holds no WAL)'],
  },
  {
    failure: 'a transaction larger than memory',
    scenarios: ['large-transaction'],
    tests: ['changefeed/capture/large.pg.test.ts'],
  },
  { failure: 'a transaction that stays open', scenarios: ['open-transaction'] },
  {
    failure: 'a schema change in mid-stream',
    scenarios: ['schema-change'],
    tests: ['kvstore/store/bucket-change.pg.test.ts'],
  },
  { failure: 'a keepalive missed while the sink pushes back', scenarios: ['slow-sink'] },
  { failure: 'an orphaned walsender still holds the slot', scenarios: ['orphaned-walsender'] },
  { failure: 'notifications lost over a reconnect', scenarios: ['lost-notifications'] },
];

const kafka: readonly KnownFailure[] = [
  {
    failure: 'Kafka’s transactions lose and tear',
    // They are not used; positions take their place.
    scenarios: ['duplicate-append', 'broker'],
  },
  {
    failure: 'finite retries drop the batch after one that landed',
    scenarios: ['broker', 'broker-network', 'leader-change'],
  },
  { failure: 'a rebalance commits to partitions already lost', scenarios: ['rebalance'] },
  { failure: 'a consumer is stuck after a rebalance', scenarios: ['rebalance', 'broker-network'] },
  { failure: 'an effect twice after a takeover', scenarios: ['double-effect'] },
];

/** Of what is at the other end of the road. */
const nodes: readonly KnownFailure[] = [
  {
    failure: 'events without reconciliation, single updates that are put off overtake each other',
    tests: ['agents/reconcile/sequence.test.ts', 'agents/agent.test.ts'],
  },
  {
    failure: 'a node removes what it has not been told of yet',
    tests: ['agents/agent.test.ts (removes nothing before it knows anything)'],
  },
  { failure: 'an invalid rule leaves the firewall open', tests: ['agents/firewall/compile.test.ts'] },
  {
    failure: 'all who were connected to an instance that dies come back at once',
    tests: ['changefeed/feed-client.test.ts', 'bench/readers.ts (10,000 that resume)'],
  },
];

export const knownFailures: readonly KnownFailure[] = [...publishers, ...postgres, ...kafka, ...nodes];
