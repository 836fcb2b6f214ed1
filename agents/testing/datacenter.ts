import { createServer, type IncomingMessage, type Server } from 'node:http';
import { type WebSocket, WebSocketServer } from 'ws';
import type { Desired } from '../contract/desired.ts';
import { type FromAgent, fromAgentSchema, type Task, type ToAgent } from '../contract/wire.ts';

export interface Recorded {
  readonly method: string;
  readonly path: string;
  readonly body: Record<string, unknown>;
  readonly requestId: string | null;
}

type Spanned = Pick<Desired, 'span' | 'key'>;

/**
 * CNAPI and VMAPI as an agent sees them, in one process, for tests: it holds desired objects, feeds agents their part
 * and keeps what they report.
 */
export class FakeDatacenter {
  readonly #server: Server;
  readonly #sockets = new Map<string, WebSocket>();
  readonly #listener: WebSocketServer;
  readonly #objects = new Map<string, Spanned>();
  readonly #tasks = new Map<string, Task>();
  readonly #waiters = new Set<() => void>();
  readonly requests: Recorded[] = [];
  /** By node: what it said last. */
  readonly applied = new Map<string, Extract<FromAgent, { type: 'applied' }>>();
  /** By node: how often it connected. */
  readonly connections = new Map<string, number>();
  /** Decides the status of an answer; 200 unless told. */
  respond: (request: Recorded) => number = () => 200;
  #sequence = 0;
  url = '';

  constructor() {
    this.#server = createServer((request, response) => {
      const answer = (recorded: Recorded) => {
        this.requests.push(recorded);
        const status = this.respond(recorded);
        response.writeHead(status, { 'content-type': 'application/json' }).end('{}');
        this.#wake();
      };
      // An agent that ends may leave half a request behind.
      void this.#read(request).then(answer, () => response.destroy());
    });
    this.#listener = new WebSocketServer({ server: this.#server });
    this.#listener.on('connection', (socket, request) => {
      const node = /^\/servers\/([^/]+)\/agent$/.exec(request.url ?? '')?.[1] ?? '';
      this.#sockets.set(node, socket);
      this.connections.set(node, (this.connections.get(node) ?? 0) + 1);
      socket.on('message', (data) =>
        this.#hear(node, socket, fromAgentSchema.parse(JSON.parse(String(data)))),
      );
      socket.on('close', () => {
        if (this.#sockets.get(node) === socket) this.#sockets.delete(node);
      });
    });
  }

  async start(): Promise<this> {
    await new Promise<void>((resolve) => this.#server.listen(0, '127.0.0.1', resolve));
    const address = this.#server.address();
    if (address === null || typeof address === 'string') throw new Error('no address');
    this.url = `http://127.0.0.1:${address.port}`;
    return this;
  }

  /** Puts objects; answers the last one's position. */
  put(...objects: readonly Spanned[]): string {
    let position = '';
    for (const object of objects) {
      position = this.#next();
      const before = this.#objects.get(object.key);
      this.#objects.set(object.key, object);
      const gone = (before?.span ?? []).filter((node) => !object.span.includes(node));
      for (const node of object.span) {
        this.#send(node, { type: 'put', position, requestId: `req-${position}`, object: object as Desired });
      }
      for (const node of gone)
        this.#send(node, { type: 'delete', position, requestId: null, key: object.key });
    }
    return position;
  }

  delete(...keys: readonly string[]): string {
    let position = '';
    for (const key of keys) {
      position = this.#next();
      const object = this.#objects.get(key);
      this.#objects.delete(key);
      for (const node of object?.span ?? []) {
        this.#send(node, { type: 'delete', position, requestId: `req-${position}`, key });
      }
    }
    return position;
  }

  task(task: Task): void {
    this.#tasks.set(task.id, task);
    this.#send(task.server_uuid, { type: 'task', position: this.#next(), task });
  }

  /** Resolves once the node has said that its kernel shows `position`; answers what failed. */
  async shown(node: string, position: string): Promise<readonly { key: string; reason: string }[]> {
    await this.until(() => (this.applied.get(node)?.position ?? '') >= position);
    return this.applied.get(node)?.failed ?? [];
  }

  /** Resolves once `holds` answers true; it is asked after each thing that arrives. */
  async until(holds: () => boolean): Promise<void> {
    while (!holds()) await new Promise<void>((resolve) => this.#waiters.add(resolve));
  }

  /** Reports of a VM's state, in order. */
  reports(vm: string): Recorded[] {
    return this.requests.filter(({ method, path }) => method === 'PUT' && path === `/vms/${vm}`);
  }

  /** Ends every connection without a word, as a killed process does. */
  cut(): void {
    for (const socket of this.#sockets.values()) socket.terminate();
  }

  /** Stops reading and answering, as a process that hangs does, on the connections that there are. */
  freeze(): void {
    for (const socket of this.#sockets.values()) socket.pause();
  }

  async stop(): Promise<void> {
    for (const socket of this.#listener.clients) socket.terminate();
    this.#server.closeAllConnections();
    await new Promise<void>((resolve) => this.#server.close(() => resolve()));
  }

  #next(): string {
    this.#sequence += 1;
    return `00000001-${this.#sequence.toString(16).padStart(16, '0')}-00000000`;
  }

  #hear(node: string, socket: WebSocket, message: FromAgent): void {
    if (message.type === 'hello') {
      const objects = [...this.#objects.values()].filter(({ span }) => span.includes(node)) as Desired[];
      const tasks = [...this.#tasks.values()].filter((task) => task.server_uuid === node);
      const snapshot: ToAgent = { type: 'snapshot', v: 1, position: this.#next(), objects, tasks };
      socket.send(JSON.stringify(snapshot));
    } else {
      this.applied.set(node, message);
    }
    this.#wake();
  }

  #send(node: string, message: ToAgent): void {
    this.#sockets.get(node)?.send(JSON.stringify(message));
  }

  #wake(): void {
    for (const wake of this.#waiters) wake();
    this.#waiters.clear();
  }

  async #read(request: IncomingMessage): Promise<Recorded> {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    const text = Buffer.concat(chunks).toString();
    const requestId = request.headers['x-request-id'];
    return {
      method: request.method ?? '',
      path: request.url ?? '',
      body: text === '' ? {} : (JSON.parse(text) as Record<string, unknown>),
      requestId: typeof requestId === 'string' ? requestId : null,
    };
  }
}
