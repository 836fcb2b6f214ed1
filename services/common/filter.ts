/** Parts of LDAP filters (RFC 4515), made of values that clients gave. */

export function escapeValue(value: string): string {
  return value.replace(/[\\*()\0]/g, (c) => `\\${c.charCodeAt(0).toString(16).padStart(2, '0')}`);
}

/** An attribute that has one of the values. */
export function oneOf(attribute: string, values: readonly (string | number | boolean)[]): string {
  const terms = values.map((value) => `(${attribute}=${escapeValue(String(value))})`);
  return terms.length === 1 ? (terms[0] as string) : `(|${terms.join('')})`;
}
