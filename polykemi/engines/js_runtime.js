// The JavaScript side of polykemi/engines/js.py: loads a script, runs its functions.
//
// Evaluated once for each script, in a context of its own (js_realm.py); called with the shared buffer (its layout: js_values.js),
// the tables of js_tables.js, the entries (functions that call Python), what the other files of this kind give, and a JSON
// text: {"wasm": whether WebAssembly is allowed, "exports": [[module, name, parameter types such as "si", for how long a
// result holds: "run" of a route block, "method", "" or "renews": the message is another afterwards], ...]}.
//
// A script shares the global object with these files. What they use after a script has run is therefore captured first
// (`const`), or pinned here (what is called as a method); loops are written so that they need no iterators, and what other
// scripts are given too is made of arrays that have their elements, as a script's Array.prototype may have setters.
(function boot(shared, tables, entries, values, calls, sources, guards, specification) {
  'use strict';
  const { Map, Promise, Reflect, String } = globalThis;
  const { apply } = Reflect;
  const { defineProperty, preventExtensions } = Object;
  const parseJson = JSON.parse;
  const evaluate = globalThis.eval; // called by this name it evaluates in the global scope
  const uncurried = (method) => (self, ...rest) => apply(method, self, rest);
  const indexOf = uncurried(String.prototype.indexOf), slice = uncurried(String.prototype.slice);
  const then = uncurried(Promise.prototype.then);
  const pin = (owner, name) => {
    defineProperty(owner, name, { writable: false, configurable: false });
    preventExtensions(owner[name]); // it shall have no `call` of its own
  };
  pin(String.prototype, 'charCodeAt');
  pin(Function.prototype, 'call');
  for (const name of ['get', 'set', 'delete', 'clear']) pin(Map.prototype, name);
  pin(globalThis, 'eval');

  const LONGEST_RESULT = 1 << 18; // characters
  const NULL = 0;
  const STATE = 14, CLOSED = 0, OPEN = 1, LEAVING = 2, LOADING = 3, RUN = 15, ENTERED = -1, INVOKED = -2;

  const { exports: rows, wasm } = parseJson(specification);
  const failed = entries[0], piece = entries[1], rest = entries[2];
  const tellMethod = entries[3], misfit = entries[4], returned = entries[5], findModule = entries[6], say = entries[7];
  const loaded = entries[8], checkpoint = entries[9], OWN_ENTRIES = 10;

  const crossing = values(shared, tables, piece, rest);
  const { words, last, take, enterWith, sendTexts } = crossing;
  const { functions, nextRun, EXIT_TEXT } = calls(crossing, rows, entries.slice(OWN_ENTRIES), tellMethod, misfit);

  // ---- failures
  function stackOf(error) {
    try {
      const stack = error.stack;
      return typeof stack === 'string' ? stack : '';
    } catch (_) {
      return '';
    }
  }

  function fail(error) {
    let cause = 'a value that has no text was thrown';
    try {
      cause = String(error);
    } catch (_) {
      // its toString failed: the text above says so
    }
    sendTexts(cause, stackOf(error));
    failed();
  }

  // ---- route blocks
  let handlers = []; // of the script: number => function that returns the script's function
  let left = CLOSED; // what words[STATE] was when the last block ended
  let promised; // how the promise ended that the last block's function has given

  function runBlock() {
    const number = words[3], code = words[4], run = words[RUN], state = words[STATE];
    words[3] = ENTERED;
    words[4] = NULL;
    words[RUN] = nextRun();
    words[STATE] = OPEN;
    last[0] = -1;
    let ending;
    try {
      if (number > INVOKED) ending = runHandler(handlers[number], code);
      else invoke(handlers[INVOKED - number], code);
    } catch (error) {
      caught(error);
    }
    promised = ending; // not before: blocks inside of this one have had theirs
    left = words[STATE];
    words[RUN] = run;
    words[STATE] = state;
  }

  function caught(error) {
    if (words[STATE] !== LEAVING && error !== EXIT_TEXT) fail(error);
    words[STATE] = LEAVING;
  }

  // Python calls this after a block that has left something to promises: it belongs to that block. When the block has
  // left or failed, KSR is closed to it.
  function settle() {
    const run = words[RUN], state = words[STATE], result = promised;
    words[RUN] = nextRun();
    words[STATE] = left;
    try {
      checkpoint();
      if (result !== undefined && result.rejected) throw result.reason;
    } catch (error) {
      caught(error);
      checkpoint(); // what the text of the error has left to promises is not for the next block
    }
    words[RUN] = run;
    words[STATE] = state;
  }

  function runHandler(handler, code) {
    const argument = take(code);
    const callback = handler();
    if (typeof callback !== 'function') return undefined;
    const result = code === NULL ? callback() : callback(argument);
    return typeof result === 'object' && result instanceof Promise ? watched(result) : undefined;
  }

  function watched(promise) { // how it ends
    const ending = { rejected: false, reason: undefined };
    then(promise, undefined, (error) => {
      ending.rejected = true;
      ending.reason = error;
    });
    return ending;
  }

  function invoke(handler, code) {
    const callback = handler();
    if (typeof callback !== 'function') return;
    const result = apply(callback, undefined, parseJson(take(code)));
    checkpoint();
    if (typeof result === 'number' && result - result === 0) sendTexts(`${result}`, 'number');
    else if (typeof result === 'string') sendTexts(result, 'string', LONGEST_RESULT);
    else return;
    returned();
  }

  // ---- loading
  const { mustParse, requirer, functionsOf } = sources(
    stackOf,
    (wanted, name) => {
      sendTexts(wanted, name);
      findModule();
      return take(words[0]);
    },
    (text, level) => {
      sendTexts(text, level);
      say();
    },
  );

  guards(wasm);

  // Make KSR and its globals.
  function install(name) {
    const show = (name, value) =>
      defineProperty(globalThis, name, { value, writable: true, enumerable: true, configurable: true });
    const ksr = {};
    for (let i = 0; i < rows.length; i++) {
      const module = rows[i][0];
      if (module !== '' && ksr[module] === undefined) show('KSR_' + module, (ksr[module] = {}));
      (module === '' ? ksr : ksr[module])[rows[i][1]] = functions[i];
    }
    show('KSR', ksr);
    show('require', requirer(name, new Map()));
  }

  // words[4]: the code of the name of the source, a line break, the source. Tell Python the names of the functions, a line
  // each; or tell why it failed, and return what was thrown.
  function load() {
    words[3] = ENTERED;
    words[RUN] = 0;
    words[STATE] = LOADING;
    last[0] = -1;
    try {
      const text = take(words[4]), end = indexOf(text, '\n');
      words[4] = NULL;
      loadSource(slice(text, 0, end), slice(text, end + 1));
      return undefined;
    } catch (error) {
      words[STATE] = CLOSED;
      fail(error);
      checkpoint(); // what it has left to promises is not for the next block
      return error;
    } finally {
      words[STATE] = CLOSED;
    }
  }

  function loadSource(name, source) {
    mustParse(source);
    install(name);
    // a function scope of its own; the function inside finds const, let and var alike
    const make = evaluate(
      '(function () {' + source + '\n;return function () { return eval(arguments[0]); }; })\n//# sourceURL=' + name);
    const scope = apply(make, globalThis, []);
    const own = [() => (text) => { scope(text); }, () => (text) => { evaluate(text); }]; // see js_script.py
    const found = functionsOf(scope, source, own);
    checkpoint();
    enterWith(loaded, [found.names], 1);
    handlers = found.handlers;
  }

  return [load, runBlock, settle];
})
//# sourceURL=js_runtime.js
