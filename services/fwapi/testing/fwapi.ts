import { randomUUID } from 'node:crypto';
import { type SdcClient, sdcClient } from '../../../test/fixtures/sdc.ts';
import { type Instance, type Stack, startStack } from '../../../test/fixtures/stack.ts';
import type { VmRecord } from '../../common/records.ts';
import { vmsBucket } from '../../common/records.ts';
import { setupFwapi } from '../setup.ts';

export type Obj = Readonly<Record<string, unknown>>;

export interface RawAnswer {
  readonly status: number;
  // biome-ignore lint/suspicious/noExplicitAny: what a test looks into is what it expects
  readonly body: any;
}

/** Instances of FWAPI on one stack. */
export interface TestFwapi {
  readonly stack: Stack;
  readonly instances: readonly Instance[];
  /** Triton's client, of another instance each time. */
  client(): SdcClient;
  request(method: string, path: string, body?: unknown, headers?: Record<string, string>): Promise<RawAnswer>;
  /** Writes a machine as VMAPI does. */
  putVm(vm: VmRecord): Promise<VmRecord>;
  close(): Promise<void>;
}

export async function startFwapi(instanceCount: number): Promise<TestFwapi> {
  const stack = await startStack();
  const instances = await Promise.all(
    Array.from({ length: instanceCount }, () => stack.start('fwapi', setupFwapi)),
  );
  const clients = instances.map(({ url }) => sdcClient('FWAPI', url));
  let turn = 0;
  return {
    stack,
    instances,
    client: () => clients[turn++ % clients.length] as SdcClient,
    request: async (method, path, body, headers = {}) => {
      const { url } = instances[turn++ % instances.length] as Instance;
      const answer = await fetch(`${url}${path}`, {
        method,
        headers: { ...(body === undefined ? {} : { 'content-type': 'application/json' }), ...headers },
        ...(body === undefined ? {} : { body: typeof body === 'string' ? body : JSON.stringify(body) }),
      });
      const text = await answer.text();
      return { status: answer.status, body: text === '' ? undefined : JSON.parse(text) };
    },
    putVm: async (vm) => {
      await stack.kv.put(vmsBucket.name, vm.uuid, vm);
      return vm;
    },
    close: async () => {
      for (const client of clients) client.close();
      await stack.close();
    },
  };
}

let count = 0;

/** A running machine with its firewall on and an address of its own. */
export function newVm(owner: string, fields: Partial<VmRecord> = {}): VmRecord {
  const n = ++count;
  const ip = `10.${(n >> 16) & 255}.${(n >> 8) & 255}.${n & 255}`;
  const mac = `90:b8:d0:${[n >> 16, n >> 8, n].map((b) => (b & 255).toString(16).padStart(2, '0')).join(':')}`;
  return {
    uuid: randomUUID(),
    owner_uuid: owner,
    server_uuid: randomUUID(),
    state: 'running',
    brand: 'joyent',
    create_timestamp: Date.now(),
    firewall_enabled: true,
    tag_map: {},
    nics: [{ mac, ip, ips: [`${ip}/24`], nic_tag: 'sdc_overlay/77' }],
    ...fields,
  };
}
