/** Whether a server is heard of (bucket cnapi_status). */
export interface StatusRecord {
  readonly server_uuid: string;
  readonly status: 'running' | 'unknown';
  /** When the status became this one, ISO 8601; not the time of the last beat: beats are not written. */
  readonly last_heartbeat: string;
  /** The instance that hears the server, and its hearing of it: whoever hears it next writes another session. */
  readonly instance: string;
  readonly session: string;
}
