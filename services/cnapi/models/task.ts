/** A task for a node's agent, as clients see it and as it is kept (bucket cnapi_tasks). */
export interface TaskRecord {
  readonly id: string;
  readonly req_id: string;
  readonly server_uuid: string;
  readonly task: string;
  readonly params: Record<string, unknown>;
  readonly status: 'active' | 'complete' | 'failure';
  readonly timestamp: string;
  readonly history: readonly TaskEvent[];
}

export interface TaskEvent {
  readonly name: 'finish' | 'error';
  readonly timestamp: string;
  readonly event: Record<string, unknown>;
}

export function isOver(task: TaskRecord): boolean {
  return task.status !== 'active';
}
