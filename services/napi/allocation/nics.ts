import type { BatchOp, Kv, KvObject } from '../../../kvstore/types.ts';
import { isCongerError } from '../../../runtime/errors.ts';
import { retryOnConflict } from '../../common/retry.ts';
import { contains, parseSubnet } from '../models/address.ts';
import { ipsBucket, networksBucket, nicsBucket } from '../models/buckets.ts';
import { duplicate, inUse, invalid, notFound } from '../models/errors.ts';
import { type IpRecord, isFree } from '../models/ip.ts';
import { derivedMac, formatMac } from '../models/mac.ts';
import type { NetworkRecord } from '../models/network.ts';
import type { NicRecord } from '../models/nic.ts';
import type { Candidates } from './candidates.ts';
import { clearOtherPrimaries, deletePortolan, putIp, putPortolan, releaseIp } from './nic-writes.ts';

/** What a new NIC is to be; without `mac` one is made up, with `network` and without `ip` an address is chosen. */
export interface NicWish {
  readonly nic: Omit<NicRecord, 'mac' | 'ipaddr' | 'created_timestamp' | 'modified_timestamp' | 'v'>;
  readonly mac?: number | undefined;
  readonly network?: NetworkRecord | undefined;
  readonly ip?: string | undefined;
  readonly reserved: boolean;
}

export interface Made {
  readonly nic: NicRecord;
  readonly etag: string;
}

const maxTries = 50;

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

  /** @throws InvalidParameters, InUse (the address), SubnetFull */
  async create(wish: NicWish): Promise<Made> {
    const seed = wish.nic.request_key ?? '';
    let macTry = 0;
    for (let tries = 1; ; tries++) {
      const mac = wish.mac ?? derivedMac(seed, macTry);
      const present = await this.#kv.tryGet<NicRecord>(nicsBucket.name, String(mac));
      if (present !== undefined) {
        if (present.value.request_key === seed) return { nic: present.value, etag: present._etag };
        if (wish.mac !== undefined) throw duplicate('mac');
        macTry++;
        continue;
      }
      try {
        return await this.#write(wish, mac);
      } catch (error) {
        // Somebody else took the MAC or the address in the meantime: look again.
        if (!isCongerError(error, 'EtagConflictError', 'UniqueAttributeError') || tries >= maxTries)
          throw error;
      }
    }
  }

  async #write(wish: NicWish, mac: number): Promise<Made> {
    const { network, reserved } = wish;
    const now = Date.now();
    const base: NicRecord = { ...wish.nic, mac, created_timestamp: now, modified_timestamp: now, v: 3 };
    if (network === undefined) return this.#commit(base, []);
    if (wish.ip !== undefined) {
      const nic = { ...base, ipaddr: wish.ip };
      return this.#commit(nic, [
        putIp(network.uuid, nic, reserved, await this.#freeEtag(network, wish.ip, nic)),
      ]);
    }
    const candidate = await this.#candidates.next(network);
    try {
      const nic = { ...base, ipaddr: candidate.address };
      return await this.#commit(nic, [putIp(network.uuid, nic, reserved, candidate.etag)]);
    } finally {
      candidate.release();
    }
  }

  async #commit(nic: NicRecord, ops: readonly BatchOp[]): Promise<Made> {
    const put: BatchOp = {
      operation: 'put',
      bucket: nicsBucket.name,
      key: String(nic.mac),
      value: nic,
      etag: null,
    };
    const { etags } = await this.#kv.batch([
      put,
      ...ops,
      ...putPortolan(nic),
      ...(await clearOtherPrimaries(this.#kv, nic)),
    ]);
    return { nic, etag: etags[0]! };
  }

  /** The etag that an address which was asked for must have to be taken. @throws InvalidParameters */
  async #freeEtag(network: NetworkRecord, address: string, nic: NicRecord): Promise<string | null> {
    if (!contains(parseSubnet(network.subnet), address)) {
      throw invalid('ip', `ip ${address} is outside of network ${network.uuid}`);
    }
    const ip = await this.#kv.tryGet<IpRecord>(ipsBucket(network.uuid).name, address);
    if (ip === undefined) return null;
    const { belongs_to_uuid: user, belongs_to_type: type } = ip.value;
    if (isFree(ip.value) || user === undefined || user === nic.belongs_to_uuid) return ip._etag;
    throw inUse(`ip ${address}`, [{ type: type ?? 'other', id: user }]);
  }

  /** Changes a NIC; `change` sees it as it is. A new address is taken and the old one freed in the same batch. */
  update(
    mac: number,
    change: (
      present: KvObject<NicRecord>,
    ) => Promise<{ nic: NicRecord; network?: NetworkRecord | undefined }>,
  ): Promise<Made> {
    return retryOnConflict(`nic ${formatMac(mac)}`, async () => {
      const present = await this.read(mac);
      const { nic: changed, network } = await change(present);
      const nic = { ...changed, modified_timestamp: Date.now() };
      const ops: BatchOp[] = [
        { operation: 'put', bucket: nicsBucket.name, key: String(mac), value: nic, etag: present._etag },
      ];
      const moved = nic.ipaddr !== present.value.ipaddr || nic.network_uuid !== present.value.network_uuid;
      const reassigned =
        nic.belongs_to_uuid !== present.value.belongs_to_uuid || nic.owner_uuid !== present.value.owner_uuid;
      if (moved)
        ops.push(
          ...(await releaseIp(this.#kv, present.value)),
          ...(await deletePortolan(this.#kv, present.value)),
        );
      if ((moved || reassigned) && network !== undefined && nic.ipaddr !== undefined) {
        const etag =
          reassigned && !moved
            ? await this.#presentEtag(network, nic.ipaddr)
            : await this.#freeEtag(network, nic.ipaddr, nic);
        ops.push(putIp(network.uuid, nic, false, etag));
      }
      ops.push(...putPortolan(nic), ...(await clearOtherPrimaries(this.#kv, nic)));
      const { etags } = await this.#kv.batch(ops);
      return { nic, etag: etags[0]! };
    });
  }

  async #presentEtag(network: NetworkRecord, address: string): Promise<string | null> {
    return (await this.#kv.tryGet(ipsBucket(network.uuid).name, address))?._etag ?? null;
  }

  /** Deletes a NIC and frees its address. `check` may refuse. @throws ResourceNotFound */
  async delete(mac: number, check: (present: KvObject<NicRecord>) => void): Promise<void> {
    await retryOnConflict(`nic ${formatMac(mac)}`, async () => {
      const present = await this.read(mac);
      check(present);
      await this.#kv.batch([
        { operation: 'delete', bucket: nicsBucket.name, key: String(mac), etag: present._etag },
        ...(await releaseIp(this.#kv, present.value)),
        ...(await deletePortolan(this.#kv, present.value)),
      ]);
    });
  }

  /** @throws ResourceNotFound */
  async read(mac: number): Promise<KvObject<NicRecord>> {
    const nic = await this.#kv.tryGet<NicRecord>(nicsBucket.name, String(mac));
    if (nic === undefined) throw notFound(`nic ${formatMac(mac)}`);
    return nic;
  }
}

/** The networks of some NICs, by uuid. */
export async function networksOf(kv: Kv, nics: readonly NicRecord[]): Promise<Map<string, NetworkRecord>> {
  const uuids = [...new Set(nics.map((nic) => nic.network_uuid).filter((uuid) => uuid !== undefined))];
  if (uuids.length === 0) return new Map();
  const found = await kv.find<NetworkRecord>(
    networksBucket.name,
    `(|${uuids.map((uuid) => `(uuid=${uuid})`).join('')})`,
    {
      noLimit: true,
    },
  );
  return new Map(found.objects.map((object) => [object.key, object.value]));
}
