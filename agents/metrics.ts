import { counter, gauge, timer } from '../runtime/metrics.ts';

export const agentMetrics = {
  reconcileSeconds: timer('conger_agent_reconcile_seconds', 'time that a reconciliation took', ['result']),
  kernelSeconds: timer(
    'conger_agent_change_seconds',
    'time from the arrival of a change to the kernel having it',
  ),
  failed: gauge('conger_agent_failed_objects', 'desired objects that are not programmed'),
  objects: gauge('conger_agent_desired_objects', 'desired objects of this node'),
  received: counter('conger_agent_changes_received_total', 'changes that arrived (puts, deletes, snapshots)'),
  applied: counter('conger_agent_changes_applied_total', 'changes that the kernel has'),
  connected: gauge('conger_agent_connected', 'whether an instance of CNAPI is connected (1) or not (0)'),
  tasks: counter('conger_agent_tasks_total', 'tasks by outcome', ['status']),
};
