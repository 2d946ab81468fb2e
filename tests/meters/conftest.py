import sys
from pathlib import Path

# The simulator is shared by the tests of this folder and by the processes they start.
sys.path.insert(0, str(Path(__file__).parent))
