package hbase_test

import (
	"testing"

	_ "darklaunch/appserver/store/hbase"
)

func TestOwn(*testing.T) {}
