import { randomUUID } from 'node:crypto';
import type { Kv } from '../../../kvstore/types.ts';
import { messageOf } from '../../../runtime/errors.ts';
import type { Logger } from '../../../runtime/log.ts';
import { gauge } from '../../../runtime/metrics.ts';
import { updateObject } from '../../common/retry.ts';
import { statusBucket } from '../models/buckets.ts';
import type { StatusRecord } from '../models/status.ts';

const heardNow = gauge('conger_cnapi_servers_heard', 'servers that this instance hears');

/** A server not heard of for so long is `unknown`, as in Triton. */
export const silenceMs = 11_000;

interface Hearing {
  readonly session: string;
  timer: NodeJS.Timeout | undefined;
}

export interface LivenessOptions {
  readonly kv: Kv;
  readonly log: Logger;
  /** This life of this instance. */
  readonly member: string;
  readonly silenceMs?: number;
}

/**
 * Which servers this instance hears, by heartbeats or by the agent's connection. A server's status is written when it
 * changes and never per beat. `unknown` is written only over this instance's own session: a server that another
 * instance hears by now is that one's to judge, so a stale instance never hides a living server.
 */
export class Liveness {
  readonly #kv: Kv;
  readonly #log: Logger;
  readonly #member: string;
  readonly #silenceMs: number;
  readonly #heard = new Map<string, Hearing>();

  constructor({ kv, log, member, silenceMs: silence }: LivenessOptions) {
    this.#kv = kv;
    this.#log = log;
    this.#member = member;
    this.#silenceMs = silence ?? silenceMs;
  }

  /** The agent's connection is open: the server is heard until `lost` is called with the session that this answers. */
  async connected(server: string): Promise<string> {
    const session = randomUUID();
    this.#replace(server, { session, timer: undefined });
    await this.#writeRunning(server, session);
    return session;
  }

  /** The agent's connection is gone: if nobody hears the server until the silence is over, it is unknown. */
  lost(server: string, session: string): void {
    const hearing = this.#heard.get(server);
    if (hearing?.session !== session) return;
    hearing.timer = this.#silence(server, session);
  }

  /** A heartbeat came by REST. Writes only where the server was not this instance's, or was unknown. */
  async beat(server: string): Promise<void> {
    const hearing = this.#heard.get(server);
    if (hearing === undefined) {
      const session = randomUUID();
      this.#replace(server, { session, timer: this.#silence(server, session) });
      await this.#writeRunning(server, session);
    } else if (hearing.timer !== undefined) {
      hearing.timer.refresh();
    }
  }

  /**
   * A server was heard by an instance that is gone. Whoever hears it next says so; if nobody does until the silence is
   * over, it is unknown.
   */
  inherit(status: StatusRecord): void {
    if (status.status !== 'running' || this.#heard.has(status.server_uuid)) return;
    this.#replace(status.server_uuid, {
      session: status.session,
      timer: this.#silence(status.server_uuid, status.session),
    });
  }

  /**
   * A server's status was written, by whomever. Another instance's session: the server is heard there. `unknown` over a
   * session that is open here: whoever wrote it could not reach this instance, and is put right.
   */
  written(status: StatusRecord): void {
    const { server_uuid: server, session } = status;
    const hearing = this.#heard.get(server);
    if (hearing === undefined) return;
    if (hearing.session !== session) {
      if (status.instance !== this.#member) this.#forget(server);
    } else if (status.status === 'unknown' && hearing.timer === undefined) {
      this.#writeRunning(server, session).catch((error: unknown) => {
        this.#log.error(
          { err: error, server },
          `cannot write that server ${server} is running: ${messageOf(error)}`,
        );
      });
    }
  }

  close(): void {
    for (const server of [...this.#heard.keys()]) this.#forget(server);
  }

  #silence(server: string, session: string): NodeJS.Timeout {
    return setTimeout(() => void this.#fallSilent(server, session), this.#silenceMs);
  }

  #replace(server: string, hearing: Hearing): void {
    clearTimeout(this.#heard.get(server)?.timer);
    this.#heard.set(server, hearing);
    heardNow.set(this.#heard.size);
  }

  #forget(server: string): void {
    clearTimeout(this.#heard.get(server)?.timer);
    this.#heard.delete(server);
    heardNow.set(this.#heard.size);
  }

  async #writeRunning(server: string, session: string): Promise<void> {
    await this.#write(server, () => this.#status(server, 'running', session));
  }

  async #fallSilent(server: string, session: string): Promise<void> {
    if (this.#heard.get(server)?.session !== session) return;
    this.#forget(server);
    try {
      await this.#write(server, (present) =>
        present?.session === session && present.status === 'running'
          ? this.#status(server, 'unknown', session)
          : undefined,
      );
      this.#log.warn({ server }, `server ${server} is not heard of any more`);
    } catch (error) {
      this.#log.error(
        { err: error, server },
        `cannot write that server ${server} is unknown: ${messageOf(error)}`,
      );
      this.#replace(server, { session, timer: this.#silence(server, session) });
    }
  }

  #write(
    server: string,
    next: (present: StatusRecord | undefined) => StatusRecord | undefined,
  ): Promise<unknown> {
    return updateObject<StatusRecord>(this.#kv, statusBucket.name, server, (present) => next(present?.value));
  }

  #status(server: string, status: StatusRecord['status'], session: string): StatusRecord {
    return {
      server_uuid: server,
      status,
      last_heartbeat: new Date().toISOString(),
      instance: this.#member,
      session,
    };
  }
}
