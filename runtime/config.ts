import { z } from 'zod';

/**
 * The registry of configuration: every option of every process, once, with its default, its environment
 * variable and a line of help. A process reads the environment only through `loadConfig`.
 */

const list = z.string().transform((s) =>
  s
    .split(',')
    .map((part) => part.trim())
    .filter(Boolean),
);
const port = z.coerce.number().int().min(0).max(65535);
const count = z.coerce.number().int().min(1);
const flag = z.enum(['true', 'false', '1', '0', '']).transform((s) => s === 'true' || s === '1');

export interface Option<T extends z.ZodType = z.ZodType> {
  readonly env: string;
  /** What stands in for an unset variable, in the variable's own notation. */
  readonly default: string;
  readonly schema: T;
  readonly help: string;
}

function option<T extends z.ZodType>(env: string, fallback: string, schema: T, help: string): Option<T> {
  return { env, default: fallback, schema, help };
}

export const options = {
  instance: option('CONGER_INSTANCE', '', z.string(), 'name of this process, for example vmapi0'),
  datacenter: option('CONGER_DATACENTER', 'conger', z.string().min(1), 'name of the datacenter'),
  logLevel: option(
    'CONGER_LOG_LEVEL',
    'info',
    z.enum(['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent']),
    'least level that is logged',
  ),
  host: option('CONGER_HOST', '127.0.0.1', z.string().min(1), 'address that this process listens on'),
  port: option('CONGER_PORT', '0', port, 'port that this process listens on (0: any)'),
  metricsPort: option(
    'CONGER_METRICS_PORT',
    '0',
    port,
    'port of health and metrics where the main port does not speak HTTP',
  ),
  postgres: option(
    'CONGER_POSTGRES',
    'postgresql://conger@127.0.0.1:5432/conger',
    z.string().min(1),
    'URL of the PostgreSQL that holds the KV tier; of all hosts, comma-separated, where it has standbys',
  ),
  postgresPool: option(
    'CONGER_POSTGRES_POOL',
    '8',
    count,
    'connections that a kvstore server keeps to PostgreSQL',
  ),
  sql: option(
    'CONGER_SQL',
    'false',
    flag,
    "whether kvstore trusts its clients: answers Moray's `sql` call, and runs hooks that they send",
  ),
  hooks: option('CONGER_HOOKS', '', list, 'modules of hooks for kvstore, paths, comma-separated'),
  kvstore: option('CONGER_KVSTORE', 'tcp://127.0.0.1:2020', list, 'kvstore servers, comma-separated'),
  kafka: option(
    'CONGER_KAFKA',
    '',
    list,
    'Kafka brokers (host:port), comma-separated; empty: the embedded log',
  ),
  kafkaTopic: option(
    'CONGER_KAFKA_TOPIC',
    'conger.changes',
    z.string().min(1),
    'topic that holds the changes',
  ),
  kafkaReplicas: option(
    'CONGER_KAFKA_REPLICAS',
    '1',
    count,
    'replication factor of a topic that Conger creates',
  ),
  partitions: option('CONGER_PARTITIONS', '8', count, 'partitions of the log; fixed once the log exists'),
  logRetainHours: option(
    'CONGER_LOG_RETAIN_HOURS',
    '24',
    count,
    'hours that the log keeps a record; of a Kafka topic when it is created',
  ),
  logRetainRecords: option(
    'CONGER_LOG_RETAIN_RECORDS',
    '1000000',
    count,
    'records that the embedded log keeps at most',
  ),
  logRetainBytes: option(
    'CONGER_LOG_RETAIN_BYTES',
    '0',
    z.coerce.number().int().min(0),
    'bytes that a Kafka topic keeps at most, over its partitions, set when it is created; 0: no bound',
  ),
  captureSlot: option(
    'CONGER_CAPTURE_SLOT',
    'conger',
    z.string().regex(/^[a-z_][a-z0-9_]{0,39}$/),
    'replication slot and publication that the capture reads through',
  ),
  failpoints: option(
    'CONGER_FAILPOINTS',
    '',
    z.string(),
    'faults that tests want of this process (runtime/failpoints.ts)',
  ),
  failpointsTrace: option(
    'CONGER_FAILPOINTS_TRACE',
    '',
    z.string(),
    'file in which this process tells which failpoints it passes',
  ),
  captureSpool: option(
    'CONGER_CAPTURE_SPOOL',
    '',
    z.string(),
    'directory, on a disk, that large transactions wait in; empty: the temporary one',
  ),
  captureSpoolMb: option(
    'CONGER_CAPTURE_SPOOL_MB',
    '16384',
    count,
    'megabytes that transactions in the spool may take together; a larger one is sent by PostgreSQL several times',
  ),
  walBudgetMb: option(
    'CONGER_WAL_BUDGET_MB',
    '1024',
    count,
    'megabytes of WAL that PostgreSQL may keep for the capture; from half of it on the capture and kvstore warn',
  ),
  cnapi: option('CONGER_CNAPI', 'http://127.0.0.1:8080', list, 'CNAPI instances, comma-separated'),
  vmapi: option('CONGER_VMAPI', 'http://127.0.0.1:8081', list, 'VMAPI instances, comma-separated'),
  napi: option('CONGER_NAPI', 'http://127.0.0.1:8082', list, 'NAPI instances, comma-separated'),
  fwapi: option('CONGER_FWAPI', 'http://127.0.0.1:8083', list, 'FWAPI instances, comma-separated'),
  underlaySubnet: option(
    'CONGER_UNDERLAY_SUBNET',
    '10.99.0.0/16',
    z.string().min(1),
    'subnet of the nodes’ underlay addresses (NAPI)',
  ),
  endpointsFile: option(
    'CONGER_ENDPOINTS',
    '',
    z.string(),
    'path of the datacenter’s endpoints.json (adminui)',
  ),
  nodeUuid: option('CONGER_NODE', '', z.string(), 'UUID of the compute node (agents)'),
  nodeKind: option(
    'CONGER_NODE_KIND',
    'simulated',
    z.enum(['netns', 'simulated']),
    'what an agent programs: a network namespace, or a record of calls',
  ),
  nodeHome: option('CONGER_NODE_HOME', '', z.string(), 'directory in which an agent keeps its last state'),
  nodeHostname: option('CONGER_NODE_HOSTNAME', '', z.string(), 'host name of the compute node'),
  nodeUnderlay: option(
    'CONGER_NODE_UNDERLAY',
    '10.99.0.1/24',
    z.string(),
    'underlay address of the compute node, with its prefix length',
  ),
  nodePrefix: option(
    'CONGER_NODE_PREFIX',
    'cg',
    z.string().regex(/^[a-z][a-z0-9]{0,5}$/),
    'prefix of the namespaces that a netns node makes',
  ),
} as const satisfies Record<string, Option>;

export type OptionName = keyof typeof options;
export type Config = { readonly [K in OptionName]: z.output<(typeof options)[K]['schema']> };

/**
 * Reads the whole configuration.
 * @throws Error naming every variable that does not parse, with what it should be.
 */
export function loadConfig(env: Readonly<Record<string, string | undefined>> = process.env): Config {
  const values: Record<string, unknown> = {};
  const problems: string[] = [];
  for (const [name, entry] of Object.entries<Option>(options)) {
    const given = env[entry.env];
    const parsed = entry.schema.safeParse(given === undefined ? entry.default : given);
    if (parsed.success) values[name] = parsed.data;
    else problems.push(`${entry.env}=${given}: ${parsed.error.issues[0]?.message} (${entry.help})`);
  }
  if (problems.length > 0) throw new Error(`invalid configuration:\n  ${problems.join('\n  ')}`);
  return values as Config;
}

/** One line of help an option, for `--help` and the docs. */
export function describeOptions(): string[] {
  return Object.values<Option>(options).map((o) => `${o.env.padEnd(24)} ${o.help} [${o.default || 'none'}]`);
}
