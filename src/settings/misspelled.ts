/**
 * Finds environment variables that look like misspelled settings. Pure.
 */

/** A variable with one of our prefixes that is not a setting. */
export interface UnknownSetting {
  readonly name: string;
  /** The message, as in "WEBHOOK_TIMOUT is not a setting; did you mean WEBHOOK_TIMEOUT?" */
  readonly hint: string;
}

const OURS = /^(WEBHOOK|BOARD|WORKER)_/;
/** Variables that Kubernetes sets in every pod for a service named `board` or `worker`. */
const SERVICE_LINK = /_(SERVICE_(HOST|PORT(_\w+)?)|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)$/;
const MAX_DISTANCE = 3; // edits: beyond it, it is another word

/**
 * The variables with one of our prefixes that are not settings, in the order of the environment. Other software may use such
 * names too, so they are worth a warning but not an error. Empty variables count as unset.
 *
 * @param known  the names of all settings
 */
export function findUnknownSettings(
  env: Readonly<Record<string, string | undefined>>,
  known: readonly string[],
): UnknownSetting[] {
  const names = Object.keys(env).filter((name) => OURS.test(name) && env[name] && !SERVICE_LINK.test(name));
  return names
    .filter((name) => !known.includes(name))
    .map((name) => {
      const meant = nearest(name, known) ?? known.find((other) => rest(other) === rest(name));
      return { name, hint: `${name} is not a setting${meant === undefined ? "" : `; did you mean ${meant}?`}` };
    });
}

/** The known word with the smallest edit distance, if that is small enough for its length. */
export function nearest(word: string, known: readonly string[]): string | undefined {
  let best: { readonly word: string; readonly distance: number } | undefined;
  for (const candidate of known) {
    const limit = Math.min(MAX_DISTANCE, Math.floor(rest(candidate).length * 0.4));
    const distance = editDistance(word, candidate);
    if (distance <= limit && distance < (best?.distance ?? Number.POSITIVE_INFINITY)) {
      best = { word: candidate, distance };
    }
  }
  return best?.word;
}

/** The name without its prefix, which says nothing about similarity. */
function rest(name: string): string {
  return name.replace(OURS, "");
}

/** Damerau–Levenshtein distance (optimal string alignment). */
function editDistance(a: string, b: string): number {
  let beforeLast: number[] = [];
  let last = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const isSame = a[i - 1] === b[j - 1];
      const isSwap = i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1];
      row[j] = Math.min(
        (last[j] as number) + 1,
        (row[j - 1] as number) + 1,
        (last[j - 1] as number) + (isSame ? 0 : 1),
        isSwap ? (beforeLast[j - 2] as number) + 1 : Number.POSITIVE_INFINITY,
      );
    }
    beforeLast = last;
    last = row;
  }
  return last[b.length] as number;
}
