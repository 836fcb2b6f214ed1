/** Parts of LDAP filters (RFC 4515), made of values that clients gave. */

export function escapeValue(value: string): string {
  return value.replace(/[\\*()\0]/g, (c) => `\\${c.charCodeAt(0).toString(16).padStart(2, '0')}`);
}

/** An attribute that has one of the values; of none, nothing is asked. */
export function oneOf(attribute: string, values: readonly (string | number | boolean)[]): string {
  const terms = values.map((value) => `(${attribute}=${escapeValue(String(value))})`);
  return either(terms);
}

/** One of some filters; of none, nothing is asked. */
export function either(filters: readonly string[]): string {
  return filters.length > 1 ? `(|${filters.join('')})` : (filters[0] ?? '');
}
