import { LRUCache } from 'lru-cache';
import { type Bucket, bucketOf, type RegistryRow } from './bucket.ts';
import type { Connections } from './connections.ts';
import { reading } from './database.ts';
import { bucketNotFound } from './errors.ts';
import { isBucketName, registryTable } from './identifiers.ts';

/**
 * The buckets that this server has seen. What it holds may be out of date at any time, as other servers change buckets
 * too: whoever uses a Bucket names its generation to PostgreSQL in the statement itself, and calls `outdated` where
 * that answers that it is another by now.
 */
export class Registry {
  readonly #connections: Connections;
  readonly #buckets = new LRUCache<string, Bucket>({ max: 4096 });
  readonly #loading = new Map<string, Promise<Bucket>>();

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
    const load = this.#read(name).finally(() => this.#loading.delete(name));
    this.#loading.set(name, load);
    return load;
  }

  /** Forgets `bucket`, unless a newer one has taken its place already. */
  outdated(bucket: Bucket): void {
    if (this.#buckets.get(bucket.name)?.generation === bucket.generation) this.#buckets.delete(bucket.name);
  }

  async #read(name: string): Promise<Bucket> {
    const row = await readRegistry(this.#connections, name);
    if (row === undefined) {
      this.#buckets.delete(name);
      throw bucketNotFound(name);
    }
    const bucket = bucketOf(row);
    this.#buckets.set(name, bucket);
    return bucket;
  }
}

export async function readRegistry(connections: Connections, name: string): Promise<RegistryRow | undefined> {
  // Names that cannot be there are not PostgreSQL's to judge: some of them it cannot even read.
  if (!isBucketName(name)) return undefined;
  return reading(connections, async (client) => {
    const result = await client.query<RegistryRow>({
      name: 'registry',
      text: `SELECT * FROM ${registryTable} WHERE name = $1`,
      values: [name],
    });
    return result.rows[0];
  });
}
