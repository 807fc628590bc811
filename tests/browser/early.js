// Runs before everything else on a page under test: what goes wrong from here on is kept.
window.wrong = [];
addEventListener("error", (event) => wrong.push(event.message || `cannot load ${event.target.src || event.target.href}`), true);
addEventListener("unhandledrejection", (event) => wrong.push(String(event.reason)));
console.error = (...words) => wrong.push(words.join(" "));
