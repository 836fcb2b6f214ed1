import { LRUCache } from 'lru-cache';
import { type Bucket, bucketOf, type RegistryRow, registrySelect } from './bucket.ts';
import type { Connections } from './connections.ts';
import { reading } from './database.ts';
import { bucketNotFound } from './errors.ts';
import { isBucketName } from './identifiers.ts';
import { forgetReindex } from './store-metrics.ts';

/**
 * The buckets that this server has seen. What it holds may be out of date at any time, as other servers change buckets
 * too and are heard of a moment later: whoever uses a Bucket names its generation to PostgreSQL in the statement itself, and calls `outdated` where
 * that answers that it is another by now.
 */
export class Registry {
  readonly #connections: Connections;
  readonly #buckets = new LRUCache<string, Bucket>({ max: 4096 });
  readonly #loading = new Map<string, Promise<Bucket>>();
  /** Counts the changes that were heard of. */
  #heard = 0;

  constructor(connections: Connections) {
    this.#connections = connections;
  }

  /** @throws BucketNotFoundError */
  async get(name: string): Promise<Bucket> {
    return this.#buckets.get(name) ?? this.load(name);
  }

  /** Reads the bucket from PostgreSQL. Calls that come while one is under way share it. */
  async load(name: string): Promise<Bucket> {
    const loading = this.#loading.get(name);
    if (loading !== undefined) return loading;
    const load = this.#read(name).finally(() => {
      if (this.#loading.get(name) === load) this.#loading.delete(name);
    });
    this.#loading.set(name, load);
    return load;
  }

  /**
   * The bucket has changed: it is read anew at once, if it is one of those that are used here. Undefined: any may have
   * changed. What is being read at this moment may be as it was before.
   */
  changed(name: string | undefined): void {
    this.#heard++;
    if (name === undefined) {
      this.#buckets.clear();
      this.#loading.clear();
      return;
    }
    this.#loading.delete(name);
    if (!this.#buckets.has(name)) return;
    // Where it cannot be read the next call to use it meets the same.
    this.load(name).catch(() => this.#buckets.delete(name));
  }

  /** Forgets `bucket`, unless a newer one has taken its place already. */
  outdated(bucket: Bucket): void {
    if (this.#buckets.get(bucket.name)?.generation === bucket.generation) this.#buckets.delete(bucket.name);
  }

  async #read(name: string): Promise<Bucket> {
    const heard = this.#heard;
    const row = await readRegistry(this.#connections, name);
    if (row === undefined) {
      forgetReindex(name);
      this.#buckets.delete(name);
      throw bucketNotFound(name);
    }
    const bucket = bucketOf(row);
    if (!bucket.tracked) forgetReindex(name);
    if (heard === this.#heard) this.#buckets.set(name, bucket);
    else this.#buckets.delete(name);
    return bucket;
  }
}

export async function readRegistry(connections: Connections, name: string): Promise<RegistryRow | undefined> {
  // Names that cannot be there are not PostgreSQL's to judge: some of them it cannot even read.
  if (!isBucketName(name)) return undefined;
  return reading(connections, async (client) => {
    const result = await client.query<RegistryRow>({
      name: 'registry',
      text: `${registrySelect} WHERE r.name = $1`,
      values: [name],
    });
    return result.rows[0];
  });
}
