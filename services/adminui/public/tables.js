/**
 * What each table shows: `columns` by their titles, each a field of the row or a function of it, `buckets` whose
 * changes concern the table, and what its `count` says.
 */

export const tables = {
  instances: {
    columns: {
      name: 'name',
      health: (row) => mark(row.healthy ? 'good' : 'bad', row.healthy ? 'up' : row.detail),
      address: (row) => code(row.address),
      pid: (row) => code(row.pid),
    },
    buckets: [],
    count: (rows) => ratio(rows, (row) => row.healthy, 'up'),
  },
  nodes: {
    columns: {
      'host name': 'hostname',
      status: (row) => mark(row.status === 'running' ? 'good' : 'bad', row.status),
      kind: 'kind',
      uuid: (row) => code(row.uuid),
    },
    buckets: ['cnapi_servers', 'cnapi_status'],
    count: (rows) => ratio(rows, (row) => row.status === 'running', 'running'),
  },
  networks: {
    columns: {
      name: 'name',
      subnet: (row) => code(row.subnet),
      vlan: 'vlan_id',
      vnet: 'vnet_id',
      uuid: (row) => code(row.uuid),
    },
    buckets: ['napi_networks'],
    count: (rows) => String(rows.length),
  },
  rules: {
    columns: {
      rule: (row) => code(row.rule, 'long'),
      enabled: (row) => mark(row.enabled ? 'good' : 'off', row.enabled ? 'on' : 'off'),
      owner: (row) => code(row.owner_uuid ?? 'every owner'),
    },
    buckets: ['fwapi_rules'],
    count: (rows) => ratio(rows, (row) => row.enabled, 'enabled'),
  },
  vms: {
    columns: {
      alias: 'alias',
      state: (row) => mark({ running: 'good', failed: 'bad' }[row.state] ?? 'off', row.state),
      addresses: (row) => code(row.nics.map((nic) => nic.ip ?? '').join(' ')),
      firewall: (row) => (row.firewall_enabled ? 'on' : 'off'),
      tags: (row) => Object.entries(row.tags).map(tag).join(' '),
      uuid: (row) => code(row.uuid),
      node: (row) => code(row.server_uuid),
    },
    buckets: ['vmapi_vms'],
    count: (rows) => ratio(rows, (row) => row.state === 'running', 'running'),
  },
};

const clock = new Intl.DateTimeFormat('en-GB', {
  hour: '2-digit',
  minute: '2-digit',
  second: '2-digit',
  fractionalSecondDigits: 3,
});

export const feedColumns = {
  time: (change) => code(clock.format(change.time)),
  change: 'op',
  bucket: 'bucket',
  key: (change) => code(change.key),
  request: (change) => code(change.requestId),
  position: (change) => code(change.position),
};

function tag([name, value]) {
  return `${name}=${value}`;
}

function ratio(rows, holds, what) {
  return rows.length === 0 ? '' : `${rows.filter(holds).length} of ${rows.length} ${what}`;
}

function mark(className, text) {
  const cell = document.createElement('span');
  cell.className = `mark ${className}`;
  cell.textContent = text;
  return cell;
}

function code(value, className = '') {
  const cell = document.createElement('code');
  cell.className = className;
  cell.textContent = value ?? '';
  return cell;
}

function headerOf(columns) {
  const line = document.createElement('tr');
  for (const name of Object.keys(columns)) {
    const cell = document.createElement('th');
    cell.scope = 'col';
    cell.textContent = name;
    line.append(cell);
  }
  const head = document.createElement('thead');
  head.append(line);
  return head;
}

export function rowOf(row, columns) {
  const line = document.createElement('tr');
  for (const column of Object.values(columns)) {
    const cell = line.insertCell();
    cell.append((typeof column === 'function' ? column(row) : row[column]) ?? '');
  }
  return line;
}

/** A row that says something in place of rows. */
export function note(text, columns, className) {
  const line = document.createElement('tr');
  const cell = line.insertCell();
  cell.className = className;
  cell.colSpan = Object.keys(columns).length;
  cell.textContent = text;
  return line;
}

/** Puts rows in place of those that a table has. */
export function fill(table, columns, rows) {
  const body = document.createElement('tbody');
  body.append(...rows);
  table.replaceChildren(headerOf(columns), body);
}
