/** The settings of a board as they are by default: no password, everything allowed. */
export const BOARD_DEFAULTS = {
  boardUser: "admin",
  boardPassword: undefined,
  boardEnvironment: "",
  boardReadonly: false,
  boardTrustProxy: [],
  timeoutMs: 10_000,
};
