/**
 * The page: a table a list, each read again when the feed tells of a change that concerns it. Nothing is polled but
 * the instances' health, which no feed tells.
 */
const feedLength = 50;
const healthMs = 5_000;

const tables = {
  instances: {
    columns: {
      name: 'name',
      service: 'service',
      pid: 'pid',
      address: 'url',
      health: (row) => mark(row.healthy, row.detail),
    },
    buckets: [],
  },
  nodes: {
    columns: {
      hostname: 'hostname',
      uuid: 'uuid',
      kind: 'kind',
      status: (row) => mark(row.status === 'running', row.status),
    },
    buckets: ['cnapi_servers', 'cnapi_status'],
  },
  vms: {
    columns: {
      alias: 'alias',
      uuid: 'uuid',
      state: 'state',
      address: (row) => (row.nics ?? []).map((nic) => nic.ip).join(', '),
      firewall: (row) => (row.firewall_enabled ? 'on' : 'off'),
      tags: (row) =>
        Object.entries(row.tags ?? {})
          .map((tag) => tag.join('='))
          .join(', '),
    },
    buckets: ['vmapi_vms'],
  },
  networks: {
    columns: { name: 'name', uuid: 'uuid', subnet: 'subnet', vlan: 'vlan_id', vnet: 'vnet_id' },
    buckets: ['napi_networks'],
  },
  rules: {
    columns: {
      rule: 'rule',
      enabled: (row) => (row.enabled ? 'yes' : 'no'),
      owner: 'owner_uuid',
      version: 'version',
    },
    buckets: ['fwapi_rules'],
  },
};

function mark(good, detail) {
  const cell = document.createElement('span');
  cell.className = good === null ? '' : good ? 'good' : 'bad';
  cell.textContent = good === null ? '-' : good ? (detail ?? 'up') : (detail ?? 'down');
  return cell;
}

function cellOf(row, column) {
  const value = typeof column === 'function' ? column(row) : row[column];
  const cell = document.createElement('td');
  cell.append(value instanceof Node ? value : String(value ?? ''));
  return cell;
}

function headerOf(columns) {
  const head = document.createElement('tr');
  for (const name of Object.keys(columns)) {
    const cell = document.createElement('th');
    cell.textContent = name;
    head.append(cell);
  }
  return head;
}

function rowOf(row, columns) {
  const line = document.createElement('tr');
  line.append(...Object.values(columns).map((column) => cellOf(row, column)));
  return line;
}

function note(text, className) {
  const line = document.createElement('tr');
  const cell = document.createElement('td');
  cell.className = className;
  cell.colSpan = 9;
  cell.textContent = text;
  line.append(cell);
  return line;
}

async function load(name) {
  const { columns } = tables[name];
  const table = document.getElementById(name);
  try {
    const answer = await fetch(`/api/${name}`);
    const body = await answer.json();
    if (!answer.ok) throw new Error(body.message);
    const rows = body.length > 0 ? body.map((row) => rowOf(row, columns)) : [note('none yet', 'empty')];
    table.replaceChildren(headerOf(columns), ...rows);
  } catch (error) {
    table.replaceChildren(headerOf(columns), note(error.message, 'bad'));
  }
}

/** Reads a table again soon: changes that come together cost one reading. */
const due = new Set();
function refresh(name) {
  if (due.has(name)) return;
  due.add(name);
  setTimeout(() => {
    due.delete(name);
    void load(name);
  }, 100);
}

const feedColumns = {
  time: (change) => new Date(change.time).toISOString().slice(11, 23),
  operation: 'op',
  bucket: 'bucket',
  key: 'key',
  request: 'requestId',
  position: 'position',
};

function follow() {
  const live = document.getElementById('live');
  const table = document.getElementById('feed');
  table.replaceChildren(headerOf(feedColumns));
  const source = new EventSource('/api/feed');
  source.onopen = () => {
    live.textContent = 'live';
    for (const name of Object.keys(tables)) refresh(name);
  };
  source.onerror = () => {
    live.textContent = 'connection lost, trying again';
  };
  source.onmessage = (event) => {
    const change = JSON.parse(event.data);
    table.rows[0].after(rowOf(change, feedColumns));
    while (table.rows.length > feedLength + 1) table.deleteRow(-1);
    for (const [name, { buckets }] of Object.entries(tables))
      if (buckets.includes(change.bucket)) refresh(name);
  };
}

follow();
setInterval(() => refresh('instances'), healthMs);
