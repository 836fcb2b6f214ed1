import type { Kv } from '../../../kvstore/types.ts';
import { addressToNumber, numberToAddress } from '../models/address.ts';
import { ipsBucket } from '../models/buckets.ts';
import { subnetFull } from '../models/errors.ts';
import type { IpRecord } from '../models/ip.ts';
import type { NetworkRecord } from '../models/network.ts';

/** An address to try, with the etag that its record must still have (null: there must be none). */
export interface Candidate {
  readonly address: string;
  readonly etag: string | null;
  /** Lets go of it, whether it was taken or not. */
  release(): void;
}

const page = 200;

/**
 * Chooses addresses: the lowest never used, then the longest free. Whether one is really free is decided by the etag
 * that it is written with; within a process no two requests try the same one, so that they do not run into each other.
 */
export class Candidates {
  readonly #kv: Kv;
  readonly #trying = new Set<string>();
  /** By network and start of its range: every address from there up to this one has a record. Records stay, so it only grows. */
  readonly #used = new Map<string, bigint>();

  constructor(kv: Kv) {
    this.#kv = kv;
  }

  /** @throws SubnetFull */
  async next(network: NetworkRecord): Promise<Candidate> {
    const candidate = (await this.#neverUsed(network)) ?? (await this.#longestFree(network));
    if (candidate === undefined) throw subnetFull(network.uuid);
    return candidate;
  }

  async #neverUsed(network: NetworkRecord): Promise<Candidate | undefined> {
    const start = addressToNumber(network.provision_start_ip_addr);
    const end = addressToNumber(network.provision_end_ip_addr);
    let number = this.#used.get(rangeOf(network)) ?? start;
    let contiguous = true;
    while (number <= end) {
      const from = numberToAddress(number, network.subnet_type);
      const filter = `(&(ipaddr>=${from})(ipaddr<=${network.provision_end_ip_addr}))`;
      const found = await this.#kv.find<IpRecord>(ipsBucket(network.uuid).name, filter, {
        limit: page,
        sort: { attribute: 'ipaddr', order: 'ASC' },
      });
      for (const { value } of found.objects) {
        const used = addressToNumber(value.ipaddr);
        for (; number < used; number++) {
          contiguous = this.#mark(network, number, contiguous);
          const candidate = this.#take(network, numberToAddress(number, network.subnet_type), null);
          if (candidate !== undefined) return candidate;
        }
        number = used + 1n;
      }
      if (found.objects.length === page) continue;
      contiguous = this.#mark(network, number, contiguous);
      for (; number <= end; number++) {
        const candidate = this.#take(network, numberToAddress(number, network.subnet_type), null);
        if (candidate !== undefined) return candidate;
      }
    }
    if (contiguous) this.#used.set(rangeOf(network), number);
    return undefined;
  }

  /** Notes the first gap: everything below it has a record. */
  #mark(network: NetworkRecord, gap: bigint, contiguous: boolean): boolean {
    if (contiguous) this.#used.set(rangeOf(network), gap);
    return false;
  }

  async #longestFree(network: NetworkRecord): Promise<Candidate | undefined> {
    const range = `(ipaddr>=${network.provision_start_ip_addr})(ipaddr<=${network.provision_end_ip_addr})`;
    for (let offset = 0; ; offset += page) {
      const found = await this.#kv.find<IpRecord>(
        ipsBucket(network.uuid).name,
        `(&${range}(reserved=false)(!(belongs_to_uuid=*)))`,
        { limit: page, offset, sort: { attribute: '_mtime', order: 'ASC' } },
      );
      for (const { key, _etag } of found.objects) {
        const candidate = this.#take(network, key, _etag);
        if (candidate !== undefined) return candidate;
      }
      if (found.objects.length < page) return undefined;
    }
  }

  #take(network: NetworkRecord, address: string, etag: string | null): Candidate | undefined {
    const name = `${network.uuid}/${address}`;
    if (this.#trying.has(name)) return undefined;
    this.#trying.add(name);
    return { address, etag, release: () => this.#trying.delete(name) };
  }
}

function rangeOf(network: NetworkRecord): string {
  return `${network.uuid}/${network.provision_start_ip_addr}`;
}
