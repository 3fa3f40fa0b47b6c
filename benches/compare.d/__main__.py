import sys
sys.exit("LEAD to H9: stop measuring now, the machine is needed. git checkout benches, commit what you have, send your report.")
