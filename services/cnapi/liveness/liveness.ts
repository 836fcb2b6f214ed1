import { randomUUID } from 'node:crypto';
import type { Kv } from '../../../kvstore/types.ts';
import { messageOf } from '../../../runtime/errors.ts';
import type { Logger } from '../../../runtime/log.ts';
import { gauge } from '../../../runtime/metrics.ts';
import { updateObject } from '../../common/retry.ts';
import { statusBucket } from '../models/buckets.ts';
import type { StatusRecord } from '../models/status.ts';

const heardNow = gauge('conger_cnapi_servers_heard', 'servers that this instance answers for');

/** A server not heard of for so long is `unknown`, as in Triton. */
export const silenceMs = 11_000;

/** A server whose silence this instance judges. */
interface Hearing {
  readonly session: string;
  /** false: the session is that of an instance which is gone. */
  readonly own: boolean;
  /** undefined: the agent's connection is open. */
  timer: NodeJS.Timeout | undefined;
  /** The feed has shown the session: what it shows of other sessions from now on is later. */
  seen: boolean;
}

export interface LivenessOptions {
  readonly kv: Kv;
  readonly log: Logger;
  /** This life of this instance. */
  readonly member: string;
  /** Whether another instance has heard the server within the silence. */
  readonly heardElsewhere: (server: string) => Promise<boolean>;
  readonly silenceMs?: number | undefined;
}

/**
 * Which servers are heard, by heartbeats or by the agent's connection. One instance answers for a server: the one whose
 * session its status names. It alone writes `unknown`, over its own session, and only once no other instance has heard
 * the server either: beats go to any instance. A server's status is written when it changes and never per beat.
 */
export class Liveness {
  readonly #kv: Kv;
  readonly #log: Logger;
  readonly #member: string;
  readonly #heardElsewhere: LivenessOptions['heardElsewhere'];
  readonly #silenceMs: number;
  readonly #hearings = new Map<string, Hearing>();
  /** The session that the feed showed last. */
  readonly #shown = new Map<string, string>();
  /** Servers that another instance answers for, as far as this one knows. */
  readonly #elsewhere = new Set<string>();
  readonly #beats = new Map<string, number>();
  readonly #claims = new Map<string, Promise<void>>();

  constructor({ kv, log, member, heardElsewhere, silenceMs: silence }: LivenessOptions) {
    this.#kv = kv;
    this.#log = log;
    this.#member = member;
    this.#heardElsewhere = heardElsewhere;
    this.#silenceMs = silence ?? silenceMs;
  }

  /** The agent's connection is open: the server is heard until `lost` is called with the session that this answers. */
  async connected(server: string): Promise<string> {
    const session = randomUUID();
    this.#replace(server, { session, own: true, timer: undefined, seen: false });
    try {
      await this.#write(server, () => this.#status(server, 'running', session));
    } catch (error) {
      if (this.#hearings.get(server)?.session === session) this.#forget(server);
      throw error;
    }
    return session;
  }

  /** The agent's connection is gone: if nobody hears the server until the silence is over, it is unknown. */
  lost(server: string, session: string): void {
    const hearing = this.#hearings.get(server);
    if (hearing?.session !== session) return;
    hearing.timer = this.#silence(server, session);
  }

  /** A heartbeat came by REST. Writes only where nobody answers for the server. */
  async beat(server: string): Promise<void> {
    this.#beats.set(server, Date.now());
    const hearing = this.#hearings.get(server);
    if (hearing?.own) hearing.timer?.refresh();
    else if (hearing !== undefined || !this.#elsewhere.has(server)) await this.#claim(server);
  }

  /** Whether this instance has heard the server within the silence. */
  hears(server: string): boolean {
    const hearing = this.#hearings.get(server);
    if (hearing?.own && hearing.timer === undefined) return true;
    return Date.now() - (this.#beats.get(server) ?? Number.NEGATIVE_INFINITY) < this.#silenceMs;
  }

  /**
   * A server was heard by an instance that is gone. Whoever hears it next answers for it; if nobody does until the
   * silence is over, it is unknown.
   */
  inherit({ server_uuid: server, status, session }: StatusRecord): void {
    if (status !== 'running' || this.#hearings.has(server)) return;
    this.#elsewhere.delete(server);
    const seen = this.#shown.get(server) === session;
    this.#replace(server, { session, own: false, timer: this.#silence(server, session), seen });
    if (this.hears(server)) this.#inBackground(server, this.#claim(server));
  }

  /** A server's status was written, by whomever. To be told in the order of the writes. */
  written(written: StatusRecord): void {
    const { server_uuid: server, session } = written;
    this.#shown.set(server, session);
    const hearing = this.#hearings.get(server);
    if (hearing?.session === session) {
      hearing.seen = true;
      if (written.status === 'unknown') this.#judged(server, hearing);
    } else if (hearing === undefined || hearing.seen) {
      this.#taken(written);
    }
  }

  /** Writes may have been missed: each server's next beat looks at who answers for it. */
  missed(): void {
    this.#elsewhere.clear();
  }

  /** Somebody wrote that a server is unknown which this instance answers for. */
  #judged(server: string, { own, session }: Hearing): void {
    if (own) {
      // Whoever it was could not reach this instance, which hears the server.
      const right = this.#write(server, () => this.#status(server, 'running', session));
      this.#inBackground(server, right);
    } else {
      this.#forget(server);
    }
  }

  /** Another session than that which this instance answers for. */
  #taken({ server_uuid: server, status, instance }: StatusRecord): void {
    if (instance === this.#member) return;
    this.#forget(server);
    if (status === 'running') {
      this.#elsewhere.add(server);
    } else {
      this.#elsewhere.delete(server);
      if (this.hears(server)) this.#inBackground(server, this.#claim(server));
    }
  }

  close(): void {
    for (const server of [...this.#hearings.keys()]) this.#forget(server);
  }

  /** Answers for the server from now on, unless another instance does. One claim at a time. */
  #claim(server: string): Promise<void> {
    const running = this.#claims.get(server);
    if (running !== undefined) return running;
    const claim = this.#claimNow(server).finally(() => this.#claims.delete(server));
    this.#claims.set(server, claim);
    return claim;
  }

  async #claimNow(server: string): Promise<void> {
    const session = randomUUID();
    const inherited = this.#hearings.get(server);
    const timer = this.#silence(server, session);
    this.#replace(server, { session, own: true, timer, seen: false });
    const isOurs = () => this.#hearings.get(server)?.session === session;
    try {
      const written = await this.#write(server, (present) => {
        const others = present?.status === 'running' && present.instance !== this.#member;
        return others && present.session !== inherited?.session
          ? undefined
          : this.#status(server, 'running', session);
      });
      if (written?.session === session) return;
      this.#elsewhere.add(server);
      if (isOurs()) this.#forget(server);
    } catch (error) {
      if (isOurs()) this.#forget(server);
      if (inherited !== undefined && !this.#hearings.has(server))
        this.#replace(server, { ...inherited, timer: this.#silence(server, inherited.session) });
      throw error;
    }
  }

  #silence(server: string, session: string): NodeJS.Timeout {
    return setTimeout(() => void this.#fallSilent(server, session), this.#silenceMs);
  }

  #replace(server: string, hearing: Hearing): void {
    clearTimeout(this.#hearings.get(server)?.timer);
    this.#hearings.set(server, hearing);
    heardNow.set(this.#hearings.size);
  }

  #forget(server: string): void {
    clearTimeout(this.#hearings.get(server)?.timer);
    this.#hearings.delete(server);
    heardNow.set(this.#hearings.size);
  }

  async #fallSilent(server: string, session: string): Promise<void> {
    const hearing = this.#hearings.get(server);
    if (hearing?.session !== session) return;
    try {
      const heard = await this.#heardElsewhere(server);
      // In the meantime a beat may have come, or another instance may have taken over.
      if (this.#hearings.get(server) !== hearing) return;
      if (heard || this.hears(server)) {
        hearing.timer = this.#silence(server, session);
        return;
      }
      this.#forget(server);
      this.#beats.delete(server);
      await this.#write(server, (present) =>
        present?.session === session && present.status === 'running'
          ? this.#status(server, 'unknown', session)
          : undefined,
      );
      this.#log.warn({ server }, `server ${server} is not heard of any more`);
    } catch (error) {
      this.#fault(server, error);
      if (!this.#hearings.has(server))
        this.#replace(server, { ...hearing, timer: this.#silence(server, session) });
    }
  }

  #write(
    server: string,
    next: (present: StatusRecord | undefined) => StatusRecord | undefined,
  ): Promise<StatusRecord | undefined> {
    return updateObject<StatusRecord>(this.#kv, statusBucket.name, server, (present) => next(present?.value));
  }

  #inBackground(server: string, work: Promise<unknown>): void {
    work.catch((error: unknown) => this.#fault(server, error));
  }

  #fault(server: string, error: unknown): void {
    this.#log.error({ err: error, server }, `cannot write the status of ${server}: ${messageOf(error)}`);
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
