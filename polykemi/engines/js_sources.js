// What js_runtime.js needs of sources: whether one parses, which functions it has, its require() and its console.
//
// Evaluated once for each script, before it; called with `stackOf` (the stack of an error as text) and two calls
// into Python: `find(wanted, name)` gives what the source `name` requires, `say(text, level)` writes a line of the log.
// A script shares the global object with this file: see js_runtime.js.
(function sources(stackOf, find, say) {
  'use strict';
  const { Error, Map, String, SyntaxError } = globalThis;
  const { apply } = Reflect;
  const { defineProperty, getOwnPropertyNames } = Object;
  const parseJson = JSON.parse, toJson = JSON.stringify;
  const evaluate = globalThis.eval; // called by this name it evaluates in the global scope
  const uncurried = (method) => (self, ...rest) => apply(method, self, rest);
  const slice = uncurried(String.prototype.slice), exec = uncurried(RegExp.prototype.exec);
  const endsWith = uncurried(String.prototype.endsWith), lastIndexOf = uncurried(String.prototype.lastIndexOf);

  // ---- whether it parses
  // A direct eval in sloppy mode whose declarations stay inside, as the source throws before anything of it runs.
  const parseOnly = new Function('eval(arguments[0])');

  function mustParse(source) { // an error passes without being caught: V8 would forget its line
    let parses = false;
    try {
      parseOnly('throw arguments[1]();' + source, () => { parses = true; });
    } finally {
      if (parses) return;
    }
  }

  // ---- require()
  // Return require() for the source `name`; `modules`: path => module, of all sources of a script.
  function requirer(name, modules) {
    const paths = new Map(); // as this source writes them
    return function require(given) {
      const wanted = `${given}`, known = modules.get(paths.get(wanted)); // none when it has failed since
      if (known !== undefined) return known.exports;
      const found = find(wanted, name); // [path, its name here, source], or what is wrong
      if (typeof found === 'string') throw new Error(found);
      const path = found[0];
      if (modules.get(path) === undefined) loadModule(path, found[1], found[2], modules);
      paths.set(wanted, path);
      return modules.get(path).exports;
    };
  }

  function loadModule(path, name, source, modules) {
    const module = { id: path, filename: path, loaded: false, exports: {} };
    modules.set(path, module);
    try {
      if (endsWith(path, '.json')) {
        module.exports = parseJson(source);
      } else {
        const directory = slice(path, 0, lastIndexOf(path, '/'));
        const make = compiled(path, name, source);
        apply(make, module.exports, [module.exports, requirer(name, modules), module, path, directory]);
      }
      module.loaded = true;
    } finally {
      if (!module.loaded) modules.delete(path);
    }
  }

  function compiled(path, name, source) {
    try {
      return evaluate(
        '(function (exports, require, module, __filename, __dirname) {' + source + '\n})\n//# sourceURL=' + name);
    } catch (error) {
      throw new SyntaxError(path + ': ' + error.message);
    }
  }

  // ---- console
  function shownValue(value) {
    if (typeof value === 'string') return value;
    if (typeof value !== 'object' || value === null) return String(value);
    if (value instanceof Error) return stackOf(value) || String(value);
    try {
      return toJson(value) ?? String(value);
    } catch (_) {
      return String(value); // a cycle
    }
  }

  const console = {};
  ['debug', 'log', 'info', 'warn', 'error'].forEach((level) => {
    console[level] = function (...values) {
      let text = '';
      for (let i = 0; i < values.length; i++) text += (i > 0 ? ' ' : '') + shownValue(values[i]);
      say(text, level);
    };
  });
  console.trace = console.debug;
  defineProperty(globalThis, 'console', { value: console, writable: true, configurable: true });
  defineProperty(globalThis, 'require', { value: undefined, writable: true, configurable: true });

  // ---- the functions of a script
  const NAMES = /\b(?:function\s*\*?|class)\s*([\p{ID_Start}$_][\p{ID_Continue}$]*)|([\p{ID_Start}$_][\p{ID_Continue}$]*)\s*=(?!=)/gu;

  const ownGlobals = new Map();
  getOwnPropertyNames(globalThis).forEach((name) => ownGlobals.set(name, true));

  // Return `names`, a line each, and `handlers`, in that order: each gives the function. Those in `more` stand behind them.
  function functionsOf(scope, source, more) {
    const known = new Map(), found = { handlers: [], names: '' };
    const append = (value) => { // whatever the script has made of the prototypes
      const row = { __proto__: null, value, writable: true, enumerable: true, configurable: true };
      defineProperty(found.handlers, found.handlers.length, row);
    };
    const consider = (name) => {
      if (known.get(name) || ownGlobals.get(name)) return;
      known.set(name, true);
      let get;
      try {
        get = scope('(function () { return typeof ' + name + ' === "function" ? ' + name + ' : undefined; })');
        if (get() === undefined) return;
      } catch (_) {
        return; // a reserved word before "="
      }
      append(get);
      found.names += name + '\n';
    };
    NAMES.lastIndex = 0;
    for (let match; (match = exec(NAMES, source)) !== null;) consider(match[1] || match[2]);
    const globals = getOwnPropertyNames(globalThis);
    for (let i = 0; i < globals.length; i++) if (exec(/^[\p{ID_Start}$_][\p{ID_Continue}$]*$/u, globals[i]) !== null) consider(globals[i]);
    for (let i = 0; i < more.length; i++) append(more[i]);
    return found;
  }

  return { mustParse, requirer, functionsOf };
})
//# sourceURL=js_sources.js
