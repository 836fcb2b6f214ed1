import { once } from 'node:events';
import { WebSocket } from 'ws';
import { type ToAgent, toAgentSchema } from '../../../agents/contract/wire.ts';
import { Watched } from '../../../changefeed/testing/until.ts';
import { type SdcClient, sdcClient } from '../../../test/fixtures/sdc.ts';
import { type Instance, type Stack, startStack } from '../../../test/fixtures/stack.ts';
import { setupNapi } from '../../napi/setup.ts';
import { setupCnapi } from '../setup.ts';

export type Obj = Readonly<Record<string, unknown>>;

export interface RawAnswer {
  readonly status: number;
  // biome-ignore lint/suspicious/noExplicitAny: what a test looks into is what it expects
  readonly body: any;
}

/** Instances of CNAPI on one stack, and one of NAPI. */
export interface TestCnapi {
  readonly stack: Stack;
  readonly instances: readonly Instance[];
  /** Triton's client, of another instance each time. */
  client(): SdcClient;
  /** A plain request, to another instance each time, or to the one given. */
  request(method: string, path: string, body?: unknown, to?: Instance): Promise<RawAnswer>;
  start(): Promise<Instance>;
  /** Registers a server by its sysinfo. */
  register(uuid: string, fields?: Obj): Promise<RawAnswer>;
  close(): Promise<void>;
}

/** @param silenceMs after so long a server is unknown; by default no test lasts as long (an hour) */
export async function startCnapi(count: number, silenceMs = 3_600_000): Promise<TestCnapi> {
  const stack = await startStack();
  await stack.start('napi', setupNapi);
  const start = () => stack.start('cnapi', (context) => setupCnapi(context, { silenceMs }));
  const instances = await Promise.all(Array.from({ length: count }, start));
  const clients = instances.map(({ url }) => sdcClient('CNAPI', url));
  let turn = 0;
  const request: TestCnapi['request'] = async (method, path, body, to) => {
    const { url } = to ?? (instances[turn++ % instances.length] as Instance);
    const answer = await fetch(`${url}${path}`, {
      method,
      headers: body === undefined ? {} : { 'content-type': 'application/json' },
      ...(body === undefined ? {} : { body: typeof body === 'string' ? body : JSON.stringify(body) }),
    });
    const text = await answer.text();
    return { status: answer.status, body: text === '' ? undefined : JSON.parse(text) };
  };
  return {
    stack,
    instances,
    client: () => clients[turn++ % clients.length] as SdcClient,
    request,
    start,
    register: (uuid, fields = {}) =>
      request('POST', `/servers/${uuid}/sysinfo`, { sysinfo: sysinfoOf(uuid, fields) }),
    close: async () => {
      for (const client of clients) client.close();
      await stack.close();
    },
  };
}

let nodes = 0;

/** What a node says of itself: 1 core, 1000 MiB, and an underlay address of its own. */
export function sysinfoOf(uuid: string, fields: Obj = {}): Record<string, unknown> {
  const n = ++nodes;
  return {
    UUID: uuid,
    Hostname: `node${n}`,
    'MiB of Memory': '1000',
    'CPU Total Cores': 1,
    'Boot Time': '1700000000',
    'Live Image': '20231114T000000Z',
    'System Type': 'SunOS',
    'Zpool Size in GiB': 100,
    Setup: true,
    'Network Interfaces': {
      underlay: {
        'MAC Address': `02:00:00:00:${(n >> 8).toString(16)}:${(n & 255).toString(16)}`,
        ip4addr: `10.99.${n >> 8}.${n & 255}`,
        'Link Status': 'up',
        'NIC Names': ['underlay'],
      },
    },
    ...fields,
  };
}

/** An agent as its connection sees it: everything that it was told, and what that makes of its desired state. */
export class TestAgent extends Watched {
  readonly messages: ToAgent[] = [];
  readonly objects = new Map<string, unknown>();
  readonly #socket: WebSocket;

  private constructor(socket: WebSocket) {
    super();
    this.#socket = socket;
    socket.on('message', (data) => this.#take(toAgentSchema.parse(JSON.parse(String(data)))));
    socket.on('error', () => {});
  }

  /** Connects, and resolves once the snapshot is there. */
  static async connect(instance: Instance, server: string): Promise<TestAgent> {
    const agent = new TestAgent(
      new WebSocket(`${instance.url.replace('http', 'ws')}/servers/${server}/agent`),
    );
    await agent.until(() => agent.messages.length > 0);
    return agent;
  }

  send(message: unknown): void {
    this.#socket.send(typeof message === 'string' ? message : JSON.stringify(message));
  }

  /** Resolves with the code once the connection is closed. */
  async closed(): Promise<number> {
    const [code] = await once(this.#socket, 'close');
    return code;
  }

  async close(): Promise<void> {
    if (this.#socket.readyState === WebSocket.CLOSED) return;
    const closed = this.closed();
    this.#socket.close();
    await closed;
  }

  #take(message: ToAgent): void {
    this.messages.push(message);
    if (message.type === 'snapshot') {
      if (this.messages.length > 1) throw new Error('a snapshot that is not the first message');
      for (const object of message.objects) this.objects.set(keyOf(object), object);
    } else if (message.type === 'put') {
      this.objects.set(keyOf(message.object), message.object);
    } else if (message.type === 'delete') {
      if (!this.objects.delete(message.key)) throw new Error(`${message.key} was not there`);
    }
    this.changed();
  }
}

function keyOf(object: unknown): string {
  return (object as { key: string }).key;
}
