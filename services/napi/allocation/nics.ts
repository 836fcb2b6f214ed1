import type { BatchOp, Kv, KvObject } from '../../../kvstore/types.ts';
import { CongerError, isCongerError } from '../../../runtime/errors.ts';
import { retryOnConflict, staleIfGone } from '../../common/retry.ts';
import { ipsBucket, networksBucket, nicsBucket } from '../models/buckets.ts';
import { duplicateField, notFound, refused, usedField } from '../models/errors.ts';
import { type IpRecord, isProvisionable } from '../models/ip.ts';
import { derivedMac, formatMac } from '../models/mac.ts';
import type { NetworkRecord } from '../models/network.ts';
import type { NicRecord } from '../models/nic.ts';
import type { Candidates } from './candidates.ts';
import {
  clearOtherPrimaries,
  deletePortolan,
  laterWins,
  markGateway,
  putPortolan,
  releaseIp,
  takeIp,
} from './nic-writes.ts';

/** Where a NIC is to be: on a network, at an address of it that is given, or else chosen. */
export interface Place {
  readonly network: NetworkRecord;
  readonly ip: string | undefined;
  readonly reserved: boolean | undefined;
}

/** What a new NIC is to be; without `mac` one is made up. */
export interface NicWish {
  readonly nic: Omit<NicRecord, 'mac' | 'ipaddr' | 'created_timestamp' | 'modified_timestamp' | 'v'>;
  readonly mac: number | undefined;
  readonly place: Place | undefined;
}

/** What a NIC is to become. Without a place it stays where it is. */
export interface NicChange {
  readonly nic: NicRecord;
  readonly place: Place | undefined;
}

export interface Made {
  readonly nic: NicRecord;
  readonly etag: string;
}

const maxTries = 150;

/**
 * NICs are made, changed and deleted with everything that belongs to them in one batch: either the NIC, its address
 * and portolan's rows are all written, or nothing is. No address and no MAC is given twice, by however many instances.
 */
export class Nics {
  readonly #kv: Kv;
  readonly #candidates: Candidates;

  constructor(kv: Kv, candidates: Candidates) {
    this.#kv = kv;
    this.#candidates = candidates;
  }

  /** @throws InvalidParameters, SubnetFull, Conflict (too many at once) */
  async create(wish: NicWish): Promise<Made> {
    const seed = wish.nic.request_key ?? '';
    let macTry = 0;
    for (let tries = 1; ; tries++) {
      const mac = wish.mac ?? derivedMac(seed, macTry);
      const present = await this.#kv.tryGet<NicRecord>(nicsBucket.name, String(mac));
      if (present !== undefined) {
        if (present.value.request_key === seed) return { nic: present.value, etag: present._etag };
        if (wish.mac !== undefined) throw refused(duplicateField('mac'));
        macTry++;
        continue;
      }
      const now = Date.now();
      const nic: NicRecord = { ...wish.nic, mac, created_timestamp: now, modified_timestamp: now, v: 3 };
      try {
        return await this.#placed(nic, wish.place, undefined, (placed, ops) =>
          this.#commit(placed, null, ops),
        );
      } catch (error) {
        // Somebody else took the MAC or the address in the meantime: look again.
        if (!isCongerError(error, 'EtagConflictError', 'UniqueAttributeError')) throw error;
        if (tries >= maxTries)
          throw new CongerError('Conflict', 'too many NICs are made at once; try again', { cause: error });
      }
    }
  }

  /** Changes a NIC; `change` sees it as it is. A new address is taken and the old one freed in the same batch. */
  update(mac: number, change: (present: KvObject<NicRecord>) => Promise<NicChange>): Promise<Made> {
    return retryOnConflict(`nic ${formatMac(mac)}`, async () => {
      const present = await this.read(mac);
      const { nic, place } = await change(present);
      const before = present.value;
      const leaves: BatchOp[] = [
        ...(await releaseIp(this.#kv, before)),
        ...(await deletePortolan(this.#kv, before)),
        ...(await markGateway(this.#kv, before, false)),
      ];
      return this.#placed({ ...nic, modified_timestamp: Date.now() }, place, before, (placed, ops) =>
        this.#commit(placed, present._etag, ops, leaves),
      );
    });
  }

  /** Deletes a NIC and frees its address. `check` may refuse. @throws ResourceNotFound */
  async delete(mac: number, check: (present: KvObject<NicRecord>) => void): Promise<void> {
    await retryOnConflict(`nic ${formatMac(mac)}`, async () => {
      const present = await this.read(mac);
      check(present);
      const ops: BatchOp[] = [
        { operation: 'delete', bucket: nicsBucket.name, key: String(mac), etag: present._etag },
        ...(await releaseIp(this.#kv, present.value)),
        ...(await deletePortolan(this.#kv, present.value)),
        ...(await markGateway(this.#kv, present.value, false)),
      ];
      await this.#kv.batch(ops).catch(staleIfGone);
    });
  }

  /** @throws ResourceNotFound */
  async read(mac: number): Promise<KvObject<NicRecord>> {
    const nic = await this.#kv.tryGet<NicRecord>(nicsBucket.name, String(mac));
    if (nic === undefined) throw notFound('nic not found');
    return nic;
  }

  /** Gives a NIC its address, and commits both; `before` is the NIC that has an address already. */
  async #placed(
    nic: NicRecord,
    place: Place | undefined,
    before: NicRecord | undefined,
    commit: (nic: NicRecord, ops: readonly BatchOp[]) => Promise<Made>,
  ): Promise<Made> {
    if (place === undefined) return commit(nic, []);
    const { network, ip, reserved } = place;
    if (ip !== undefined) {
      const present = await this.#present(network, ip, before);
      return commit({ ...nic, ipaddr: ip }, [takeIp(network.uuid, nic, ip, present, reserved)]);
    }
    const candidate = await this.#candidates.next(network);
    try {
      const { address } = candidate;
      return await commit({ ...nic, ipaddr: address }, [
        takeIp(network.uuid, nic, address, candidate, reserved),
      ]);
    } finally {
      candidate.release();
    }
  }

  async #commit(
    nic: NicRecord,
    etag: string | null,
    ops: readonly BatchOp[],
    leaves: readonly BatchOp[] = [],
  ): Promise<Made> {
    const put: BatchOp = {
      operation: 'put',
      bucket: nicsBucket.name,
      key: String(nic.mac),
      value: nic,
      etag,
    };
    const enters: BatchOp[] = [
      ...ops,
      ...putPortolan(nic),
      ...(await markGateway(this.#kv, nic, true)),
      ...(await clearOtherPrimaries(this.#kv, nic)),
    ];
    const { etags } = await this.#kv.batch([put, ...laterWins(leaves, enters)]);
    return { nic, etag: etags[0] as string };
  }

  /** The record of an address that was asked for. @throws InvalidParameters where others use it */
  async #present(
    network: NetworkRecord,
    address: string,
    before: NicRecord | undefined,
  ): Promise<{ value?: IpRecord; etag: string | null }> {
    const ip = await this.#kv.tryGet<IpRecord>(ipsBucket(network.uuid).name, address);
    if (ip === undefined) return { etag: null };
    const own = before?.network_uuid === network.uuid && before.ipaddr === address;
    if (!own && !isProvisionable(ip.value)) {
      const type = ip.value.belongs_to_type as string;
      const id = ip.value.belongs_to_uuid as string;
      throw refused(usedField('ip', { type, id }, `IP in use by ${type} "${id}"`));
    }
    return { value: ip.value, etag: ip._etag };
  }
}

/** The networks of some NICs, by uuid. */
export async function networksOf(kv: Kv, nics: readonly NicRecord[]): Promise<Map<string, NetworkRecord>> {
  const uuids = [...new Set(nics.map((nic) => nic.network_uuid).filter((uuid) => uuid !== undefined))];
  if (uuids.length === 0) return new Map();
  const filter = `(|${uuids.map((uuid) => `(uuid=${uuid})`).join('')})`;
  const found = await kv.find<NetworkRecord>(networksBucket.name, filter, { noLimit: true });
  return new Map(found.objects.map((object) => [object.key, object.value]));
}
