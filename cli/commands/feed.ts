import { parseArgs } from 'node:util';
import { type FeedEvent, followFeed } from '../../changefeed/feed-client.ts';
import { isCongerError, messageOf } from '../../runtime/errors.ts';
import { type Endpoints, readEndpoints } from '../endpoints.ts';
import { Home } from '../home.ts';
import { type Command, UsageError } from './command.ts';

/** The service that has each resource. */
const services = {
  vm: 'vmapi',
  job: 'vmapi',
  network: 'napi',
  nic: 'napi',
  nic_tag: 'napi',
  rule: 'fwapi',
  server: 'cnapi',
} as const satisfies Record<string, keyof Endpoints>;
type Resource = keyof typeof services;

const help = `Usage: conger feed <resource> [options]

Prints the changes of a resource as they are committed, over whichever instance of its service answers, until Ctrl-C. The
last line, on stderr, says how to go on from there without missing a change. Resources: ${Object.keys(services).join(', ')}.

  --filter F     only objects that match this LDAP filter over indexed fields, such as '(state=running)'; one that
                 ceases to match is told as \`leave\`
  --since C      go on from a cursor that an earlier run gave, or from a position
  --snapshot     begin with everything there is, and do so again where the cursor is gone
  --json         print every line as it comes, as JSON, cursors and bookmarks among them
  --url URL      instances of the service, comma-separated (default: those of the home)
  --home DIR     the datacenter's home (default .conger)
  --help         this text
`;

export interface FeedArguments {
  readonly resource: string;
  readonly filter: string | undefined;
  readonly since: string | undefined;
  readonly snapshot: boolean;
  readonly json: boolean;
  readonly urls: readonly string[] | undefined;
  readonly home: string;
}

/** @throws UsageError */
export function parseFeed(args: string[]): FeedArguments {
  const { values, positionals } = parseArgs({
    args,
    allowPositionals: true,
    options: {
      filter: { type: 'string' },
      since: { type: 'string' },
      snapshot: { type: 'boolean', default: false },
      json: { type: 'boolean', default: false },
      url: { type: 'string' },
      home: { type: 'string', default: '.conger' },
    },
  });
  const [resource, ...more] = positionals;
  if (resource === undefined || more.length > 0) throw new UsageError('one resource is wanted');
  const urls = values.url?.split(',').map((url) => url.trim());
  const wrong = urls?.find((url) => !/^https?:/.test(url) || !URL.canParse(url));
  if (wrong !== undefined) throw new UsageError(`--url ${wrong}: a URL like http://host:port is wanted`);
  if (urls === undefined && !Object.hasOwn(services, resource)) {
    throw new UsageError(`there is no resource ${resource}`);
  }
  const { filter, since, snapshot, json, home } = values;
  return { resource, filter, since, snapshot, json, urls, home };
}

/** One event as a line for people; undefined where there is nothing to say. */
export function describe(event: FeedEvent): string | undefined {
  switch (event.type) {
    case 'put':
    case 'delete':
    case 'leave': {
      const when = new Date(event.time).toISOString();
      const value = event.type === 'delete' ? '' : ` ${JSON.stringify(event.value)}`;
      return `${when} ${event.type.padEnd(8)} ${event.key}${value}`;
    }
    case 'snapshot':
      return `${' '.repeat(24)} snapshot ${event.key} ${JSON.stringify(event.value)}`;
    case 'snapshot-end':
      return `${' '.repeat(24)} snapshot of ${event.count} ends`;
    case 'snapshot-begin':
    case 'bookmark':
      return undefined;
  }
}

async function findUrls({ urls, resource, home }: FeedArguments): Promise<readonly string[]> {
  if (urls !== undefined) return urls;
  const { endpoints, path } = new Home(home);
  try {
    return (await readEndpoints(endpoints))[services[resource as Resource]];
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') {
      throw new Error(`${path}: no datacenter is up; --url names instances`);
    }
    throw error;
  }
}

/** Resolves when the line is out, so that a reader that pauses holds the feed back. */
function print(line: string): Promise<void> {
  return new Promise((resolve, reject) => {
    process.stdout.write(`${line}\n`, (error) => (error ? reject(error) : resolve()));
  });
}

async function run(args: string[]): Promise<number> {
  const wanted = parseFeed(args);
  const urls = await findUrls(wanted);
  const stopping = new AbortController();
  const stop = () => stopping.abort();
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.once(signal, stop);
  // Nobody reads on (`conger feed vm | head`).
  process.stdout.once('error', stop);
  const { resource, filter, since, snapshot } = wanted;
  const following = followFeed({
    urls,
    resource,
    filter,
    since,
    snapshot,
    signal: stopping.signal,
    onEvent: async (event) => {
      const line = wanted.json ? JSON.stringify(event) : describe(event);
      if (line !== undefined) await print(line);
    },
    onTrouble: (error) => process.stderr.write(`conger feed: ${messageOf(error)}; trying again\n`),
  });
  try {
    await following.done;
    return 0;
  } catch (error) {
    // What was asked for is wrong, or gone: the server says what.
    if (!isCongerError(error) && !stopping.signal.aborted) throw error;
    if (stopping.signal.aborted) return 0;
    process.stderr.write(`conger feed: ${messageOf(error)}\n`);
    return isCongerError(error, 'PositionGone') ? 3 : 1;
  } finally {
    if (following.cursor !== undefined) process.stderr.write(`--since ${following.cursor}\n`);
  }
}

export const feed: Command = { help, run };
