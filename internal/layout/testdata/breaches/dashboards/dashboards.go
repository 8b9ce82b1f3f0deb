// Package dashboards reaches for what its data is about.
package dashboards

import _ "darklaunch/verdict" // breach: imports verdict: what is shown is data, which a page and Grafana share: it needs nobody's code
