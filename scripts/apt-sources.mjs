/**
 * One place that apt reads packages from, whichever of the two file formats it was written in.
 * @typedef {{ types: string[], uris: string[], suites: string[], components: string[], fields: Record<string, string> }}
 *   AptSource `fields` holds everything else (Signed-By, Trusted, Check-Valid-Until, …) under its deb822 name
 */

const own = new Set(["types", "uris", "suites", "components"]);
const words = (/** @type {string | undefined} */ text) => (text ?? "").split(/\s+/).filter(Boolean);

/**
 * Read a `.sources` file (deb822). Stanzas with `Enabled: no` are left out, as apt does. Never throws.
 *
 * A value may span lines: an embedded key in Signed-By does, and is kept as it is.
 *
 * @param {string} text
 * @returns {AptSource[]}
 * @see sources.list(5)
 */
export function parseDeb822(text) {
  const stanzas = text
    .split("\n")
    .filter((line) => !line.startsWith("#"))
    .join("\n")
    .split(/\n[ \t]*\n/);
  const sources = [];
  for (const stanza of stanzas) {
    /** @type {Record<string, string>} */
    const all = {};
    for (const [, name = "", value = ""] of stanza.matchAll(/^([A-Za-z-]+):[ \t]*(.*(?:\n[ \t].*)*)/gm)) {
      all[name.toLowerCase()] = value;
    }
    if (!all.uris || /^(no|false|0|off|without|disable)$/i.test(all.enabled?.trim() ?? "")) continue;
    sources.push({
      types: words(all.types),
      uris: words(all.uris),
      suites: words(all.suites),
      components: words(all.components),
      fields: Object.fromEntries(Object.entries(all).filter(([name]) => !own.has(name))),
    });
  }
  return sources;
}

/** What the options of the one-line form are called in deb822; the others only differ in case. */
const longNames = /** @type {Record<string, string>} */ ({
  arch: "architectures",
  lang: "languages",
  target: "targets",
});

/**
 * Read a `.list` file (one source a line): `deb [signed-by=/key.gpg] http://host/debian bookworm main`. Never throws.
 *
 * @param {string} text
 * @returns {AptSource[]}
 * @see sources.list(5)
 */
export function parseOneLine(text) {
  const sources = [];
  for (const line of text.split("\n")) {
    const match = line.replace(/#.*/, "").match(/^\s*(deb|deb-src)\s+(?:\[([^\]]*)\]\s*)?(\S+)\s+(\S+)\s*(.*)$/);
    if (!match) continue;
    const [, type = "", options, uri = "", suite = "", components] = match;
    const fields = words(options).map((option) => {
      const [name = "", value = ""] = option.split(/=(.*)/);
      const lower = name.toLowerCase();
      return [longNames[lower] ?? lower, value.replaceAll(",", " ")];
    });
    sources.push({
      types: [type],
      uris: [uri],
      suites: [suite],
      components: words(components),
      fields: Object.fromEntries(fields),
    });
  }
  return sources;
}

/**
 * Write the deb822 stanza for a Debian release's backports, on the mirror and with the key of the release itself.
 *
 * Every option of the release's own entry is kept: a mirror that needs `Check-Valid-Until: no` or `Trusted: yes` for
 * the release needs it here as well.
 *
 * @param {AptSource[]} sources what the machine is configured with
 * @param {string} codename such as "bookworm"
 * @returns {string | undefined} undefined when no entry for the release itself is there to derive it from
 */
export function buildBackports(sources, codename) {
  const suites = [codename, "stable", "oldstable"];
  const release = sources.find(
    ({ types, components, ...source }) =>
      types.includes("deb") && components.includes("main") && source.suites.some((suite) => suites.includes(suite)),
  );
  if (!release) return undefined;
  const { enabled: _, ...fields } = release.fields;
  return [
    "Types: deb",
    `URIs: ${release.uris.join(" ")}`,
    `Suites: ${codename}-backports`,
    "Components: main",
    ...Object.entries(fields).map(([name, value]) => `${name}: ${value}`),
    "",
  ].join("\n");
}
