import { CongerError, messageOf } from '../errors.ts';
import { type Logger, silentLogger } from '../log.ts';
import { counter } from '../metrics.ts';
import { type HostState, HostWatch } from './host-watch.ts';
import { hostName, hostsOf } from './hosts.ts';

export interface Primary {
  readonly url: string;
  /** PostgreSQL's timeline, which each promotion raises; 0 where there is but one host, which is not asked. */
  readonly timeline: number;
}

/**
 * Knows which of several PostgreSQL hosts is the primary. Everything in Conger that connects to PostgreSQL learns it
 * here, and nothing else decides it: to find the primary in another way is to implement this.
 */
export interface PrimaryFinder {
  /** How many hosts there are to choose from. */
  readonly hosts: number;
  /** The primary as known now; undefined while there is none. */
  readonly current: Primary | undefined;
  /** URLs of the standbys that stream from the primary. */
  readonly standbys: readonly string[];
  /**
   * Waits for a primary.
   * @param withinMs milliseconds
   * @throws NoDatabasePeersError where there is none in time
   */
  primary(withinMs: number): Promise<Primary>;
  /** Something points to a switch (a broken connection, a refused write): looks at once. */
  suspect(): void;
  /** Calls `listener` after each change of `current` or `standbys`; answers how to end that. */
  onChange(listener: () => void): () => void;
  close(): Promise<void>;
}

/** Between two questions to a host: while all is well, and while there is no primary or it does not answer. */
const restMs = 1_000;
const hurryMs = 200;
/** A primary that says nothing for this long, and has no successor, is taken for gone. */
const goneMs = 5_000;

const switches = counter(
  'conger_postgres_switches_total',
  'Times that this process went over to another primary',
);

/**
 * Which host is the primary. Of those that say so the one with the highest timeline is: an older one was replaced, and
 * does not know it yet. `least` is the highest timeline that was ever seen, and nothing below it is a primary again.
 * One that is merely silent stays it until there is another, or for `goneMs`.
 */
export function choosePrimary(
  hosts: ReadonlyMap<string, HostState>,
  known: Primary | undefined,
  least: number,
  now: number,
): Primary | undefined {
  let best: Primary | undefined;
  for (const [url, state] of hosts) {
    if (state.kind !== 'primary' || state.timeline < least) continue;
    const better =
      best === undefined ||
      state.timeline > best.timeline ||
      (state.timeline === best.timeline && url === known?.url);
    if (better) best = { url, timeline: state.timeline };
  }
  if (best !== undefined) return best;
  if (known === undefined || known.timeline < least) return undefined;
  const state = hosts.get(known.url);
  const patience = state?.kind === 'silent' && now - state.since < goneMs;
  return patience || state?.kind === 'unclear' ? known : undefined;
}

/** The only host there is. */
class FixedPrimary implements PrimaryFinder {
  readonly hosts = 1;
  readonly current: Primary;
  readonly standbys = [];

  constructor(url: string) {
    this.current = { url, timeline: 0 };
  }

  async primary(): Promise<Primary> {
    return this.current;
  }

  suspect(): void {}

  onChange(): () => void {
    return () => {};
  }

  async close(): Promise<void> {}
}

/** Highest timeline that this process has seen, by list of hosts; outlives those who ask. */
const highest = new Map<string, number>();

/** Asks every host of a list, and never goes back to a timeline below the highest that it has heard of. */
class WatchedHosts {
  readonly #list: string;
  readonly #log: Logger;
  readonly #watches: readonly HostWatch[];
  readonly #listeners = new Set<() => void>();
  #current: Primary | undefined;
  #standbys: readonly string[] = [];
  #healthy = false;

  constructor(list: string, urls: readonly string[], log: Logger) {
    this.#list = list;
    this.#log = log;
    this.#watches = urls.map(
      (url) =>
        new HostWatch(url, {
          name: 'conger watch',
          onState: () => this.#heard(),
          restMs: () => (this.#healthy ? restMs : hurryMs),
        }),
    );
  }

  get current(): Primary | undefined {
    return this.#current;
  }

  get standbys(): readonly string[] {
    return this.#standbys;
  }

  suspect(): void {
    for (const watch of this.#watches) watch.nudge();
  }

  onChange(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  primary(withinMs: number): Promise<Primary> {
    if (this.#current !== undefined) return Promise.resolve(this.#current);
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        silence();
        reject(this.#noPrimary());
      }, withinMs);
      const silence = this.onChange(() => {
        if (this.#current === undefined) return;
        silence();
        clearTimeout(timer);
        resolve(this.#current);
      });
    });
  }

  async close(): Promise<void> {
    await Promise.all(this.#watches.map((watch) => watch.close()));
  }

  #heard(): void {
    const hosts = new Map(this.#watches.map((watch) => [watch.url, watch.state]));
    const states = [...hosts.values()];
    // The first choice waits for all: an old primary that answers first is not to be taken for the one there is.
    if (states.some(({ kind }) => kind === 'unknown')) return;
    const seen = states.map((state) => ('timeline' in state ? (state.timeline ?? 0) : 0));
    const least = Math.max(highest.get(this.#list) ?? 0, ...seen);
    highest.set(this.#list, least);

    const chosen = choosePrimary(hosts, this.#current, least, performance.now());
    const wasHealthy = this.#healthy;
    this.#healthy = chosen !== undefined && hosts.get(chosen.url)?.kind === 'primary';
    if (wasHealthy && !this.#healthy) this.suspect();

    const follows = (state: HostState) => state.kind === 'standby' && state.timeline === chosen?.timeline;
    const standbys =
      chosen === undefined ? [] : this.#watches.filter(({ state }) => follows(state)).map(({ url }) => url);
    const before = this.#current;
    const moved = chosen?.url !== before?.url || chosen?.timeline !== before?.timeline;
    if (!moved && standbys.join() === this.#standbys.join()) return;
    this.#current = chosen;
    this.#standbys = standbys;
    if (moved) this.#tell(before, chosen);
    for (const listener of [...this.#listeners]) listener();
  }

  #tell(before: Primary | undefined, now: Primary | undefined): void {
    if (now === undefined) {
      this.#log.warn({ hosts: this.#describe() }, 'PostgreSQL has no primary');
      return;
    }
    if (before !== undefined) switches.inc();
    this.#log.info({ host: hostName(now.url), timeline: now.timeline }, 'this is the primary of PostgreSQL');
  }

  #noPrimary(): CongerError {
    return new CongerError('NoDatabasePeersError', 'no PostgreSQL server is the primary', {
      context: { hosts: this.#describe(), retryAfterMs: 1_000 },
    });
  }

  #describe(): Record<string, string> {
    return Object.fromEntries(
      this.#watches.map(({ url, state }) => {
        const timeline = 'timeline' in state ? ` of timeline ${state.timeline ?? 'unknown'}` : '';
        const error = state.kind === 'unclear' ? `: ${messageOf(state.error)}` : '';
        return [hostName(url), `${state.kind}${timeline}${error}`];
      }),
    );
  }
}

const shared = new Map<string, { readonly hosts: WatchedHosts; users: number }>();

/**
 * Finds the primary among the hosts of CONGER_POSTGRES. A single host is the primary, and is not asked. Several are
 * each asked once a second by each process, whoever in it opens this, until the last has closed it.
 */
export function openPrimaryFinder(list: string, log: Logger): PrimaryFinder {
  const [only, ...more] = hostsOf(list);
  if (only === undefined || more.length === 0) return new FixedPrimary(only ?? list);
  const entry = shared.get(list) ?? { hosts: new WatchedHosts(list, [only, ...more], log), users: 0 };
  shared.set(list, entry);
  entry.users++;
  const { hosts } = entry;
  const mine = new Set<() => void>();
  let closed = false;
  return {
    hosts: more.length + 1,
    get current() {
      return hosts.current;
    },
    get standbys() {
      return hosts.standbys;
    },
    primary: (withinMs) => hosts.primary(withinMs),
    suspect: () => hosts.suspect(),
    onChange: (listener) => {
      const silence = hosts.onChange(listener);
      mine.add(silence);
      return silence;
    },
    close: async () => {
      if (closed) return;
      closed = true;
      for (const silence of mine) silence();
      entry.users--;
      if (entry.users > 0) return;
      shared.delete(list);
      await hosts.close();
    },
  };
}

/**
 * The URL of the primary, for a look of its own at it.
 * @throws NoDatabasePeersError
 */
export async function primaryNow(list: string, withinMs: number): Promise<string> {
  const finder = openPrimaryFinder(list, silentLogger());
  try {
    return (await finder.primary(withinMs)).url;
  } finally {
    await finder.close();
  }
}
