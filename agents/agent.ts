import { setMaxListeners } from 'node:events';
import { mkdir } from 'node:fs/promises';
import type { Server } from 'node:http';
import type { Logger } from '../runtime/log.ts';
import type { ToAgent } from './contract/wire.ts';
import { machineNamespace } from './driver/names.ts';
import type { Driver } from './driver/types.ts';
import { SavedNumbers } from './firewall/numbers.ts';
import { Connection } from './liveness/connection.ts';
import { Instances } from './liveness/instances.ts';
import { sysinfo } from './liveness/sysinfo.ts';
import { agentMetrics } from './metrics.ts';
import { Reconciler } from './reconcile/reconciler.ts';
import { DesiredState } from './state/store.ts';

import { serveStatus } from './status/server.ts';
import { TaskRunner } from './tasks/runner.ts';
import { Ledger } from './vms/ledger.ts';
import { Reporter } from './vms/reporter.ts';

export interface AgentOptions {
  readonly nodeUuid: string;
  readonly hostname: string;
  readonly datacenter: string;
  /** Underlay address with its prefix length. */
  readonly underlay: string;
  readonly home: string;
  readonly prefix: string;
  readonly kind: 'netns' | 'simulated';
  readonly cnapi: readonly string[];
  readonly vmapi: readonly string[];
  readonly host: string;
  readonly port: number;
  readonly driver: Driver;
  readonly log: Logger;
  /** Milliseconds between looks at the kernel without any cause. */
  readonly auditMs?: number;
  /** Milliseconds of silence after which an instance counts as gone. */
  readonly silenceMs?: number;
}

/**
 * One compute node's agent. From the moment it starts it keeps the kernel as its last state on the disk says; once an
 * instance of CNAPI is connected, as that one says. It makes outgoing connections only, and its end changes nothing in
 * the kernel.
 */
export class Agent {
  readonly #options: AgentOptions;
  readonly #abort = new AbortController();
  readonly #state: DesiredState;
  readonly #ledger: Ledger;
  readonly #numbers: SavedNumbers;
  readonly #reconciler: Reconciler;
  readonly #reporter: Reporter;
  readonly #tasks: TaskRunner;
  readonly #connection: Connection;
  #status: { server: Server; url: string } | null = null;

  constructor(options: AgentOptions) {
    this.#options = options;
    const { home, log, nodeUuid, driver, prefix } = options;
    const underlay = options.underlay.split('/')[0] ?? '';
    const { signal } = this.#abort;
    // Every report and task that waits listens to it.
    setMaxListeners(0, signal);
    this.#state = new DesiredState(home, log);
    this.#ledger = new Ledger(home, log);
    this.#numbers = new SavedNumbers(home, log);
    this.#reporter = new Reporter(this.#ledger, new Instances(options.vmapi), nodeUuid, log, signal);
    this.#tasks = new TaskRunner({ home, cnapi: new Instances(options.cnapi), log, signal, keep: 1000 });
    this.#reconciler = new Reconciler({
      state: this.#state,
      driver,
      numbers: this.#numbers,
      ledger: this.#ledger,
      node: { uuid: nodeUuid, underlay },
      prefix,
      log,
      auditMs: options.auditMs ?? 60_000,
      onApplied: (position, failed) => this.#connection.applied(position, failed),
      onLedger: () => this.#reporter.kick(),
    });
    this.#connection = new Connection({
      node: nodeUuid,
      cnapi: options.cnapi,
      sysinfo: () =>
        sysinfo({
          uuid: nodeUuid,
          hostname: options.hostname,
          datacenter: options.datacenter,
          underlay,
          home,
        }),
      onMessage: (message) => this.#receive(message),
      log,
      signal,
      silenceMs: options.silenceMs ?? 10_000,
    });
  }

  /** @returns the URL of the local status. */
  async start(): Promise<string> {
    const { home, host, port } = this.#options;
    await mkdir(home, { recursive: true });
    await Promise.all([this.#state.load(), this.#ledger.load(), this.#numbers.load()]);
    this.#status = await serveStatus(host, port, {
      state: () => this.state(),
      verify: () => this.verify(),
      reconcile: () => this.reconcile(),
    });
    this.#reconciler.trigger();
    await this.#reconciler.idle();
    await this.#tasks.load();
    this.#reporter.kick();
    this.#connection.start();
    return this.#status.url;
  }

  /** What the node is to be, what it is, and how long the last changes took. */
  state(): unknown {
    return {
      node: this.#options.nodeUuid,
      kind: this.#options.kind,
      position: this.#state.position,
      applied: this.#reconciler.applied,
      desired: this.#state.keys,
      failed: this.#reconciler.failed,
      vms: [...this.#ledger.entries].map(([uuid, entry]) => ({
        uuid,
        namespace: machineNamespace(this.#options.prefix, uuid),
        ...entry,
      })),
      timings: this.#reconciler.timings.done,
    };
  }

  /** One line for each difference of the kernel from the desired state. */
  verify(): Promise<string[]> {
    return this.#reconciler.verify();
  }

  /** Looks at the kernel again and repairs it. */
  async reconcile(): Promise<void> {
    this.#reconciler.lookAgain();
    await this.#reconciler.idle();
  }

  /** Ends the agent and leaves the kernel as it is. */
  async close(): Promise<void> {
    this.#abort.abort();
    await this.#connection.closed();
    await this.#reconciler.close();
    await Promise.all([this.#reporter.idle(), this.#tasks.idle(), this.#options.driver.close()]);
    const server = this.#status?.server;
    server?.closeAllConnections();
    await new Promise<void>((resolve) => (server === undefined ? resolve() : server.close(() => resolve())));
  }

  #receive(message: ToAgent): void {
    const { timings } = this.#reconciler;
    switch (message.type) {
      case 'task':
        this.#tasks.take(message.task);
        return;
      case 'snapshot':
        this.#state.snapshot(message.position, message.objects);
        timings.received(message.position, null, null);
        for (const task of message.tasks) this.#tasks.take(task);
        break;
      case 'put': {
        const key = this.#state.put(message.position, message.object, message.requestId);
        timings.received(message.position, key, message.requestId);
        break;
      }
      case 'delete':
        this.#state.delete(message.position, message.key, message.requestId);
        timings.received(message.position, message.key, message.requestId);
        break;
    }
    agentMetrics.received.inc();
    this.#reconciler.trigger();
  }
}
