/** `compute` with its results kept by the argument's JSON; all are forgotten when there are `limit` of them. */
export function memo<A, R>(limit: number, compute: (argument: A) => R): (argument: A) => R {
  const results = new Map<string, R>();
  return (argument) => {
    const key = JSON.stringify(argument);
    const known = results.get(key);
    if (known !== undefined) return known;
    const result = compute(argument);
    if (results.size === limit) results.clear();
    results.set(key, result);
    return result;
  };
}
