import { randomUUID } from 'node:crypto';
import { type SdcClient, sdcClient } from '../../../test/fixtures/sdc.ts';
import { type Instance, type Stack, startStack } from '../../../test/fixtures/stack.ts';
import { setupNapi } from '../setup.ts';

export type Obj = Readonly<Record<string, unknown>>;

export interface RawAnswer {
  readonly status: number;
  readonly headers: Headers;
  // biome-ignore lint/suspicious/noExplicitAny: what a test looks into is what it expects
  readonly body: any;
}

/** Two instances of NAPI on one stack; no call may depend on which one answers. */
export interface TestNapi {
  readonly stack: Stack;
  readonly instances: readonly Instance[];
  readonly clients: readonly SdcClient[];
  /** Triton's client, of another instance each time. */
  client(): SdcClient;
  /** A plain request, to another instance each time. */
  request(method: string, path: string, body?: unknown, headers?: Record<string, string>): Promise<RawAnswer>;
  /** A network of 10.x.y.0/24 on the NIC tag `admin`, its addresses from .5 up to `last`. */
  network(last: number, params?: Obj): Promise<Obj & { uuid: string; subnet: string }>;
  close(): Promise<void>;
}

export async function startNapi(): Promise<TestNapi> {
  const stack = await startStack();
  const instances = await Promise.all([stack.start('napi', setupNapi), stack.start('napi', setupNapi)]);
  const clients = instances.map(({ url }) => sdcClient('NAPI', url));
  let turn = 0;
  const client = () => clients[turn++ % clients.length] as SdcClient;
  let networks = 0;
  return {
    stack,
    instances,
    clients,
    client,
    request: async (method, path, body, headers = {}) => {
      const { url } = instances[turn++ % instances.length] as Instance;
      const answer = await fetch(`${url}${path}`, {
        method,
        headers: { ...(body === undefined ? {} : { 'content-type': 'application/json' }), ...headers },
        ...(body === undefined ? {} : { body: typeof body === 'string' ? body : JSON.stringify(body) }),
      });
      const text = await answer.text();
      return {
        status: answer.status,
        headers: answer.headers,
        body: text === '' ? undefined : JSON.parse(text),
      };
    },
    network: (last, params = {}) => {
      const prefix = `10.${100 + Math.floor(networks / 250)}.${networks++ % 250}`;
      return client().call('createNetwork', {
        name: `net${networks}`,
        nic_tag: 'admin',
        vlan_id: 0,
        subnet: `${prefix}.0/24`,
        provision_start_ip: `${prefix}.5`,
        provision_end_ip: `${prefix}.${last}`,
        ...params,
      });
    },
    close: async () => {
      for (const each of clients) each.close();
      await stack.close();
    },
  };
}

/** What a new NIC of a machine is to be. */
export function zoneNic(params: Obj = {}): Record<string, unknown> {
  return { belongs_to_type: 'zone', belongs_to_uuid: randomUUID(), owner_uuid: randomUUID(), ...params };
}
